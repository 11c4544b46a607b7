//! The pages of both agents, as a browser and Prometheus see them.

use std::net::SocketAddr;
use std::time::Duration;

use tests::crossing::Crossing;
use tests::peers::peer;
use tests::process::run;
use tests::sandbox::free_address;
use tests::wait::{PATIENCE, wait_for, wait_until};

const RECORDS: u64 = 500;

fn curl(url: &str, more: &[&str]) -> String {
    run(peer("curl").args(["--silent", "--max-time", "10"]).args(more).arg(url)).stdout
}

/// What a browser makes of a page, once its script has asked the agent.
fn seen(crossing: &Crossing, address: SocketAddr, holds: &str) -> String {
    let profile = crossing.sandbox.join("chromium").display().to_string();
    wait_for(PATIENCE, &format!("a page with {holds:?}"), || {
        let done = run(peer("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args([&format!("--user-data-dir={profile}"), "--virtual-time-budget=5000"])
            .args(["--dump-dom", &format!("http://{address}/")]));
        done.stdout.contains(holds).then_some(done.stdout)
    })
}

#[test]
fn both_pages_show_what_happens_and_names_are_never_markup() {
    let crossing = Crossing::new("page");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let (high_page, low_page) = (free_address(), free_address());
    let page = |at: SocketAddr| format!("[page]\nlisten = \"{at}\"\n");
    let (seal, listener) = (Crossing::seal_soon(100), crossing.listener());
    high.configure(&format!("{seal}{listener}{}{}", crossing.handoff(), page(high_page)));
    let inbox = format!("{}copy-deadline = \"300ms\"\n", Crossing::quick_inbox());
    low.configure(&format!("{inbox}{}{}", crossing.file_sink(), page(low_page)));
    let _agents = [low.start(), high.start()];
    crossing.send(1..RECORDS + 1);
    assert_eq!(crossing.wait_drained(), RECORDS);

    let shown = seen(&crossing, high_page, "Everything adds up");
    for holds in ["plant-7", "Lane flash", "500 received", "handed over", "127.0.0.1"] {
        assert!(shown.contains(holds), "{holds}: {shown}");
    }
    let shown = seen(&crossing, low_page, "Everything adds up");
    for holds in ["plant-7/", "500 records", "received to delivered", ">file<"] {
        assert!(shown.contains(holds), "{holds}: {shown}");
    }

    // A name from outside that would be markup, and its script would be seen.
    let evil = "<img src=x onerror=\"document.title='owned'\">.pstk";
    std::fs::write(low.inbox().join(evil), "no bundle").expect("a file can be put there");
    wait_until(PATIENCE, "a refusal", || low.status()["quarantined"] == 1);
    let shown = seen(&crossing, low_page, "alarm to look at");
    assert!(shown.contains("&lt;img") && !shown.contains("<img"), "{shown}");
    assert!(!shown.contains("<title>owned"), "{shown}");
    assert!(shown.contains("What to do:"), "the handbook's advice is missing: {shown}");

    for (address, metric) in [
        (high_page, "penstock_high_bundles{state=\"handed-over\"}"),
        (low_page, "penstock_low_records_delivered_total{sink=\"file\"} 500"),
    ] {
        let metrics = curl(&format!("http://{address}/metrics"), &[]);
        assert!(metrics.contains(metric), "{metric}: {metrics}");
        assert_eq!(curl(&format!("http://{address}/readyz"), &[]), "ready\n");
    }
    let life = curl(&format!("http://{low_page}/life.json?bundle=flash%2F1"), &[]);
    assert!(life.contains("\"admitted\"") && life.contains("\"replayed\""), "{life}");
}

#[test]
fn without_a_word_in_the_configuration_the_page_is_on_a_socket_for_those_who_may() {
    let crossing = Crossing::new("page-socket");
    crossing.configure(100);
    let low = &crossing.pair.low;
    let agent = low.start();
    let socket = low.state_dir().join("page.sock").display().to_string();
    let ask = |path: &str| curl(&format!("http://page{path}"), &["--unix-socket", &socket]);
    assert_eq!(ask("/healthz"), "alive\n");
    assert!(ask("/status.json").contains("\"side\":\"low\""));
    // One that was killed leaves its socket; the next one takes its place.
    agent.kill();
    let agent = low.start();
    wait_until(PATIENCE, "the page of the second life", || ask("/healthz") == "alive\n");
    assert!(agent.stop(Duration::from_secs(30)).success());
    assert!(!std::path::Path::new(&socket).exists());
}
