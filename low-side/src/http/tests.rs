use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use super::*;

fn config(listener: &TcpListener) -> HttpConfig {
    HttpConfig {
        url: Url::parse(&format!("http://{}/base", listener.local_addr().unwrap())).unwrap(),
        tls: TlsConfig::default(),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_millis(500),
    }
}

/// Reads one request: its head, and as much as its length says.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).ok()?.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

/// A server that answers each connection with these bytes, one answer for each request.
fn serve(answers: Vec<Vec<&'static str>>) -> (TcpListener, thread::JoinHandle<Vec<String>>) {
    let (listener, serving, _) = serve_telling(answers);
    (listener, serving)
}

/// The same; tells of each connection that it closed.
fn serve_telling(
    answers: Vec<Vec<&'static str>>,
) -> (TcpListener, thread::JoinHandle<Vec<String>>, mpsc::Receiver<()>) {
    let (closed, told) = mpsc::sync_channel(answers.len());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = listener.try_clone().unwrap();
    let serving = thread::spawn(move || {
        let mut requests = Vec::new();
        for answers in answers {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                requests.extend(request(&mut stream));
                stream.write_all(answer.as_bytes()).unwrap();
            }
            drop(stream);
            let _ = closed.send(());
        }
        requests
    });
    (ours, serving, told)
}

fn post(body: &'static str) -> Call {
    Call::new(Method::POST, "/in?x=1", body)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_connection_is_kept_and_one_that_was_closed_is_opened_anew() {
    let (listener, serving, closed) = serve_telling(vec![vec![OK, OK], vec![OK]]);
    let mut http = Http::new(&config(&listener), &Bell::default());
    for body in ["one", "two", "three"] {
        if body == "three" {
            // What is sent before the end has come may have been taken, and is an error.
            closed.recv().unwrap();
        }
        let answer = http.send(&post(body)).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()));
    }
    let requests = serving.join().unwrap();
    assert_eq!(requests.len(), 3);
    assert!(requests[2].starts_with("post /base/in?x=1 http/1.1"), "{}", requests[2]);
    assert!(requests[2].ends_with("three"), "{}", requests[2]);
}

#[test]
fn an_error_says_whether_the_request_may_have_been_taken() {
    // Half an answer, and one that never comes.
    for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nha", ""] {
        let (listener, serving) = serve(vec![vec![answer]]);
        let mut http = Http::new(&config(&listener), &Bell::default());
        let error = http.send(&post("x")).unwrap_err();
        assert!(error.may_have_been_taken(), "{error}");
        serving.join().unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = config(&listener);
    drop(listener);
    let error = Http::new(&nobody, &Bell::default()).send(&post("x")).unwrap_err();
    assert!(!error.may_have_been_taken(), "{error}");
}

#[test]
fn a_redirect_is_an_answer_and_no_way_to_go() {
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nretry-after: 7\r\n\r\n";
    let (listener, serving) = serve(vec![vec![moved]]);
    let mut http = Http::new(&config(&listener), &Bell::default());
    let answer = http.send(&post("x")).unwrap();
    assert_eq!((answer.status, answer.retry_after()), (302, Some(Duration::from_secs(7))));
    serving.join().unwrap();
}

#[test]
fn a_stop_ends_a_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut slow = config(&listener);
    slow.timeout = Duration::from_hours(1);
    let bell = Bell::default();
    let mut http = Http::new(&slow, &bell);
    bell.stop();
    assert!(matches!(http.send(&post("x")), Err(HttpError::Stopping)));
}

#[test]
fn a_certificate_is_always_verified() {
    let mut config = config(&TcpListener::bind("127.0.0.1:0").unwrap());
    config.tls.ca_file = Some("/nowhere/ca.pem".into());
    assert!(config.check().is_ok());
    config.url.tls = true;
    let error = config.check().unwrap_err().to_string();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
}

#[test]
fn a_file_is_sent_and_an_answer_is_handed_on_piece_by_piece() {
    let (listener, serving) = serve(vec![vec![
        OK,
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole",
        "HTTP/1.1 403 No\r\ncontent-length: 6\r\n\r\nno way",
    ]]);
    let mut http = Http::new(&config(&listener), &Bell::default());
    let mut file = tempfile::tempfile().unwrap();
    let content = "0123456789".repeat(60_000);
    file.write_all(content.as_bytes()).unwrap();
    let body = FileBody::new(std::sync::Arc::new(file), content.len() as u64).tail("<tail>");
    let call = Call::new(Method::PUT, "/x", "<head>").file(body);
    assert_eq!(http.send(&call).unwrap().status, 200);

    let mut taken = Vec::new();
    let mut take = |piece: &[u8]| {
        taken.extend_from_slice(piece);
        Ok(())
    };
    let answer = http.fetch(&post(""), 5, &mut take).unwrap();
    assert!(answer.body.is_empty());
    // A refusal is no content.
    let answer = http.fetch(&post(""), 5, &mut take).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (403, b"no way".as_slice()));
    assert_eq!(taken, b"whole");
    drop(http);
    let requests = serving.join().unwrap();
    assert!(
        requests[0].ends_with(&format!("\r\n\r\n<head>{content}<tail>")),
        "{}",
        requests[0].len()
    );
}

#[test]
fn an_answer_has_an_end() {
    let (listener, _serving) =
        serve(vec![vec!["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole"]]);
    let mut http = Http::new(&config(&listener), &Bell::default());
    let error = http.fetch(&post(""), 4, &mut |_: &[u8]| Ok(())).unwrap_err();
    assert!(matches!(error, HttpError::TooLarge { most: 4, .. }), "{error}");
}
