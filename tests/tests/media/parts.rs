//! Sets of K+R media, pieces, and requests for what is missing.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::site::{Way, names, word};

fn parts_in(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| name.contains(".part-")).collect()
}

#[test]
fn any_k_of_a_set_restore_it_whatever_the_order() {
    let way = Way::new("media-set");
    let bundles = way.fill(60, 11);
    let sticks: Vec<_> = (1..=5).map(|n| way.stick(&format!("stick-{n}"))).collect();
    // Two at once, then one for each run.
    let done = way.export(&["--parts", "3+2", word(&sticks[0]), word(&sticks[1])]);
    assert!(done.stderr.contains("still to be written are 3, 4, 5"), "{done:?}");
    done.success();
    assert_eq!(way.state_count("handed-over"), 0, "a set that is not complete may be lost");
    for stick in &sticks[2..] {
        way.export(&["--parts", "3+2", word(stick)]).success();
    }
    assert_eq!(way.state_count("ready"), 0);
    for (at, stick) in sticks.iter().enumerate() {
        let parts = parts_in(stick);
        assert_eq!(parts.len() as u64, bundles);
        let ending = format!(".part-0{}-of-05", at + 1);
        assert!(parts.iter().all(|name| name.ends_with(&ending)), "{parts:?}");
    }
    // The first and the fourth are lost; one part of the second is scratched.
    let scratched = sticks[1].join(&parts_in(&sticks[1])[0]);
    let mut bytes = fs::read(&scratched).unwrap();
    bytes[5_000] ^= 1;
    fs::write(&scratched, bytes).unwrap();

    let first = way.import(&[word(&sticks[4])]);
    assert!(first.stderr.contains("2 more of any restore it"), "{first:?}");
    first.success();
    let second = way.import(&[word(&sticks[1])]);
    assert_eq!(second.code, Some(65), "{second:?}");
    assert!(second.stderr.contains("changed: "), "{second:?}");
    let third = way.take_in(&[word(&sticks[2])]);
    assert_eq!(third["admitted"].as_u64(), Some(bundles - 1), "{third}");
    // The fourth turns up after all, and with it the last bundle.
    let fourth = way.take_in(&[word(&sticks[3])]);
    assert_eq!(fourth["admitted"].as_u64(), Some(1), "{fourth}");
    way.assert_arrived(bundles);
    // What comes late costs nothing and is kept nowhere.
    let late = way.take_in(&[word(&sticks[0])]);
    assert_eq!(late["duplicate"].as_u64(), Some(bundles), "{late}");
    assert_eq!(names(&way.low().state_dir().join("parts")), ["lock"]);
}

#[test]
fn a_set_is_continued_where_it_was_left_and_never_mixed_with_another() {
    let way = Way::new("media-set-again");
    let bundles = way.fill(60, 12);
    let (one, two) = (way.stick("one"), way.stick("two"));
    way.export(&["--parts", "1+1", word(&one)]).success();
    let other = way.export(&["--parts", "2+1", word(&two)]);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.stderr.contains("--new-set"), "{other:?}");
    // More waits by now; the set stays what it was.
    way.fill(60, 13);
    let before = parts_in(&one);
    let again = way.export(&["--parts", "1+1", word(&one)]);
    assert!(again.stdout.contains("were there already"), "{again:?}");
    again.success();
    assert_eq!(parts_in(&one), before);
    // Interrupted in the middle of a file: it goes on from there.
    let name = &parts_in(&one)[0];
    let half = one.join(format!("{name}.partial"));
    let mut bytes = fs::read(one.join(name)).unwrap();
    fs::remove_file(one.join(name)).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&half, bytes).unwrap();
    way.export(&["--parts", "1+1", word(&one)]).success();
    assert_eq!(parts_in(&one), before, "the same medium has the same part");
    way.export(&["--parts", "1+1", word(&two)]).success();
    assert_eq!(parts_in(&two).len() as u64, bundles);
    assert_eq!(way.state_count("handed-over"), bundles);
    let json = way.take_in(&[word(&two)]);
    assert_eq!(json["admitted"].as_u64(), Some(bundles), "one of 1+1 is enough: {json}");
}

#[test]
fn hostile_parts_are_refused_and_cost_nothing() {
    let way = Way::new("media-hostile");
    way.fill(40, 14);
    let stick = way.stick("stick");
    way.export(&["--parts", "1+1", word(&stick)]).success();
    let good = stick.join(&parts_in(&stick)[0]);
    let bytes = fs::read(&good).unwrap();
    let hostile = way.stick("hostile");
    let mut huge = bytes.clone();
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    for (name, bytes) in [
        ("a.pstk.part-01-of-02", &bytes[..bytes.len() - 1]),
        ("b.pstk.part-01-of-02", &huge[..]),
        ("c.pstk.part-01-of-02", &b"PSTKPART"[..]),
        ("d.pstk.part-01-of-02", &[][..]),
    ] {
        fs::write(hostile.join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", hostile.join("e.pstk.part-01-of-02")).unwrap();
    let done = way.import(&[word(&hostile)]);
    assert_eq!(done.code, Some(74), "a link can't be read: {done:?}");
    for code in ["part-length", "part-header", "part-unreadable"] {
        assert!(done.stderr.contains(code), "{code}: {done:?}");
    }
    fs::remove_file(hostile.join("e.pstk.part-01-of-02")).unwrap();
    assert_eq!(way.import(&[word(&hostile)]).code, Some(65));
    assert_eq!(names(&way.low().state_dir().join("parts")), ["lock"]);
}

#[test]
fn long_bundles_are_cut_into_pieces_that_standard_tools_join() {
    let way = Way::new("media-pieces");
    let bundles = way.fill(80, 15);
    let stick = way.stick("stick");
    way.export(&["--part-size", "100KiB", word(&stick)]).success();
    let pieces = parts_in(&stick);
    assert!(pieces.len() as u64 > bundles);
    let sizes = pieces.iter().map(|name| fs::metadata(stick.join(name)).unwrap().len());
    assert!(sizes.max() <= Some(100 << 10));
    // By hand, as the handbook says.
    let name = pieces[0].split(".part-").next().unwrap();
    let mine = pieces.iter().filter(|piece| piece.starts_with(name));
    let joined: Vec<u8> =
        mine.flat_map(|piece| fs::read(stick.join(piece)).unwrap().split_off(512)).collect();
    assert!(joined == fs::read(way.high().outbox().join(name)).unwrap());

    // One is missing: nothing is taken in, and it is said which bundle waits for it.
    let hidden = fs::read(stick.join(&pieces[0])).unwrap();
    fs::remove_file(stick.join(&pieces[0])).unwrap();
    let done = way.import(&[word(&stick)]);
    assert_eq!(done.code, Some(65), "{done:?}");
    assert!(done.stderr.contains(&format!("missing: {}", pieces[0])), "{done:?}");
    assert!(done.stderr.contains(&format!("{name}: parts ")), "{done:?}");
    fs::write(stick.join(&pieces[0]), hidden).unwrap();
    way.import(&[word(&stick)]).success();
    way.assert_arrived(bundles);
}

#[test]
fn what_is_asked_for_is_sent_again_and_what_cannot_be_is_named() {
    let way = Way::new("media-missing");
    let bundles = way.fill(120, 16);
    let (lost, second) = (way.stick("lost"), way.stick("second"));
    way.export(&[word(&lost)]).success();
    let epoch = way.high().status()["epoch"].as_u64().unwrap();
    let request = |origin: &str, missing: serde_json::Value| {
        let path = way.crossing.sandbox.join("request.json");
        let request = json!({"penstock-resend": 1, "origin": origin, "missing": missing});
        fs::write(&path, request.to_string()).unwrap();
        path
    };
    let range = |first: u64, last: u64| json!({"epoch": epoch, "lane": "flash", "first": first, "last": last});
    // In the words of a receipt, which speaks of other high sides, too.
    let asked = way.crossing.sandbox.join("receipt.json");
    let of = |origin: &str, mut range: serde_json::Value| {
        range["origin"] = json!(origin);
        range
    };
    let missing = [of("plant-7", range(2, bundles)), of("plant-8", range(1, 1))];
    let receipt = json!({"penstock-receipt": 1, "chains": [], "missing": missing});
    fs::write(&asked, receipt.to_string()).unwrap();
    way.export(&["--missing", word(&asked), word(&second)]).success();
    let sent = names(&second).into_iter().filter(|name| name.ends_with(".pstk")).count() as u64;
    assert_eq!(sent, bundles - 1);
    assert_eq!(way.state_count("handed-over"), bundles, "their state stays what it was");
    // All numbers there are, and an epoch that is not ours.
    let old = json!({"epoch": 1, "lane": "routine", "first": 1, "last": 5});
    let asked = request("plant-7", json!([range(1, u64::MAX), old]));
    let done = way.export(&["--missing", word(&asked), word(&second)]);
    assert_eq!(done.code, Some(1), "{done:?}");
    for text in ["never sealed", "of another epoch", "bundles 1 to 5 of lane routine"] {
        assert!(done.stderr.contains(text), "{text}: {done:?}");
    }
    assert_eq!(way.take_in(&[word(&second)])["admitted"].as_u64(), Some(bundles));
    for (origin, missing, code, says) in [
        ("plant-8", json!([range(1, 1)]), 1, "plant-8"),
        ("plant-7", json!([range(3, 2)]), 1, "ends before it begins"),
        ("plant-7", json!([range(0, 2)]), 1, "begins at 0"),
        ("plant-7", json!("all"), 1, "is no request"),
        (
            "plant-7",
            json!([{"epoch": 1, "lane": "fast", "first": 1, "last": 1}]),
            1,
            "is no request",
        ),
    ] {
        let asked = request(origin, missing);
        let done = way.export(&["--missing", word(&asked), word(&second)]);
        assert_eq!(done.code, Some(code), "{done:?}");
        assert!(done.stderr.contains(says) && done.stderr.contains("request.json"), "{done:?}");
    }
    let forged = way.crossing.sandbox.join("request.json");
    let signature = fs::read(format!("{}.json.sig", crate::site::record_in(&second).display()));
    let text = json!({"penstock-resend": 1, "origin": "plant-7", "missing": []}).to_string();
    fs::write(&forged, [text.as_bytes(), b"\n", &signature.unwrap()].concat()).unwrap();
    let done = way.export(&["--missing", word(&forged), word(&second)]);
    assert_eq!(done.code, Some(65), "{done:?}");
}
