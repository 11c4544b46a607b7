//! The pages of both agents, as a browser and Prometheus see them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::crossing::Crossing;
use tests::peers::{find, npm_modules, peer};
use tests::process::run;
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
    let [high_page, low_page] = crossing.configure_with_pages(100);
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

/// Looks at a page at three sizes and in both colour schemes, by keyboard and with axe-core; leaves pictures.
fn looked_at(crossing: &Crossing, address: SocketAddr, name: &str) -> Value {
    let pictures = crossing.sandbox.dir("pictures");
    let chromium = find("chromium").expect("chromium is installed");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/look.cjs");
    npm_modules("axe-core");
    let modules = npm_modules("puppeteer-core");
    let done = run(peer("node").arg(script).arg(modules).arg(chromium).args([
        format!("http://{address}/"),
        pictures.display().to_string(),
        name.to_owned(),
    ]));
    // Whoever renews the handbook's pictures says where they go.
    if let Some(keep) = std::env::var_os("PENSTOCK_PICTURES") {
        for size in ["phone", "laptop", "wide"] {
            for shade in ["", "-dark"] {
                let file = format!("{name}-{size}{shade}.png");
                std::fs::copy(pictures.join(&file), Path::new(&keep).join(&file))
                    .expect("a picture");
            }
        }
    }
    serde_json::from_str(&done.success()).expect("what was found")
}

/// One bundle is taken away, and another one comes once more with a byte changed in its payload.
fn lose_one_and_damage_another(crossing: &Crossing) {
    let inbox = crossing.pair.low.inbox();
    let bundle = |number: u64| {
        let names = std::fs::read_dir(&inbox).expect("the inbox can be listed");
        let mut paths = names.map(|entry| entry.expect("an entry").path());
        let part = format!("-{number:010}-");
        let is_bundle = |path: &Path| path.extension().is_some_and(|end| end == "pstk");
        paths.find(|path| is_bundle(path) && path.to_string_lossy().contains(&part))
    };
    let [lost, kept] = [2, 4].map(|number| bundle(number).expect("a bundle of that number"));
    std::fs::remove_file(lost).expect("it can be taken away");
    let mut bytes = std::fs::read(&kept).expect("a bundle can be read");
    let at = bytes.len() - 2_000;
    bytes[at] ^= 1;
    std::fs::write(inbox.join("carried-again.pstk"), bytes).expect("a file can be put there");
}

#[test]
fn the_pages_fit_three_sizes_and_everybody_can_read_them() {
    let crossing = Crossing::new("page-look");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let [high_page, low_page] = crossing.configure_with_pages(100);
    let _high = high.start();
    for bundles in 0..5 {
        crossing.send(100 * bundles + 1..100 * bundles + 101);
        wait_until(PATIENCE, "one more bundle in the inbox", || {
            high.status()["bundles"]["handed-over"]["count"].as_u64() > Some(bundles)
        });
    }
    lose_one_and_damage_another(&crossing);
    let name = format!("{}.pstk", "a-name-without-any-space-".repeat(8));
    std::fs::write(low.inbox().join(name), "no bundle").expect("a file can be put there");
    let _low = low.start();
    wait_until(PATIENCE, "two refusals, a gap, a delivery", || {
        let status = low.status();
        let delivered = status["sinks"][0]["delivered"].as_u64() > Some(0);
        status["quarantined"] == 2 && status["gaps-holding"] == 1 && delivered
    });
    // A flow is what lies between two samples, and something came between them.
    let more = RECORDS + 1..RECORDS + 100;
    crossing.send(more);
    wait_until(PATIENCE, "two samples of the flow", || {
        let history = curl(&format!("http://{low_page}/history.json"), &[]);
        history.contains("[[")
    });
    for (address, name) in [(high_page, "page-high"), (low_page, "page-low")] {
        let found = looked_at(&crossing, address, name);
        assert_eq!(found["errors"], json!([]), "{name}: {found:#}");
        assert_eq!(found["violations"], json!([]), "{name}: {found:#}");
        assert_eq!(found["overflow"], json!([]), "{name}: {found:#}");
        assert!(found["checked"].as_u64() > Some(60), "axe-core looked at nothing: {found:#}");
        assert!(found["scrolled"].is_string() && found["left"].as_i64() > Some(0), "{found:#}");
        assert!(found["selected"].as_str().is_some_and(|text| text.len() > 5), "{found:#}");
        assert_eq!(
            (&found["kept"], &found["touched"]),
            (&found["selected"], &json!(0)),
            "{found:#}"
        );
        assert_eq!(found["spoken"], json!(["verdict", "life"]), "{found:#}");
        let drawings = found["drawings"].to_string();
        let drawn: &[&str] = match name {
            "page-low" => &[
                "1 of ",
                "1 refused file(s) say they belong here: 4 (payload-digest-mismatch)",
                "How long records took, file, flash, received to delivered",
                "none over the budget of 24.0 h",
            ],
            _ => &[],
        };
        for words in drawn {
            assert!(drawings.contains(words), "{words}: {found:#}");
        }
    }
}

/// What the page of an agent says first, how it is coloured, and all that it says is wrong.
fn verdict(page: SocketAddr) -> (String, String) {
    let status = curl(&format!("http://{page}/status.json"), &[]);
    let status: Value = serde_json::from_str(&status).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (
        text(&status["verdict"]["level"]),
        format!("{} {}", status["verdict"]["words"], status["troubles"]),
    )
}

/// The numbers of the alarms of a kind that nobody has acknowledged.
fn alarms(status: &Value, kind: &str) -> Vec<i64> {
    let alarms = status["alarms"].as_array().into_iter().flatten();
    let of = alarms.filter(|alarm| alarm["kind"] == kind || alarm["code"] == kind);
    of.filter_map(|alarm| alarm["id"].as_i64()).collect()
}

#[test]
fn a_high_side_is_not_green_while_something_waits_too_long_or_the_agent_is_silent() {
    let crossing = Crossing::new("page-late");
    let (high, page) = (&crossing.pair.high, tests::sandbox::free_address());
    let seal = Crossing::seal_soon(5);
    high.configure(&format!("{seal}{}[page]\nlisten = \"{page}\"\n", crossing.listener()));
    let agent = high.start();
    crossing.send(1..6);
    let raised = |before: &[i64]| {
        wait_for(PATIENCE, "an alarm that bundles are late", || {
            let ids = alarms(&high.status(), "hand-over-overdue");
            ids.into_iter().find(|id| !before.contains(id))
        })
    };
    let first = raised(&[]);
    assert_eq!(verdict(page).0, "bad");
    // It is known, and nothing is better: this is no green page.
    high.run(["acknowledge"]).success();
    wait_until(PATIENCE, "what is known to be still so", || {
        let (level, words) = verdict(page);
        assert_ne!(level, "good", "{words}");
        let known = words.contains("acknowledged, and still so: the oldest of lane flash");
        known && level == "warn"
    });
    // Before a browser has started it may have been raised again.
    let late = "the oldest of lane flash has waited";
    let told = high.run(["status"]).success();
    assert!(told.contains("\nTROUBLE ") && told.contains(late), "{told}");
    assert!(!told.contains("nothing is wrong"), "{told}");
    let shown = seen(&crossing, page, late);
    assert!(!shown.contains("verdict good") && !shown.contains("nothing is wrong"), "{shown}");

    // The next bundle is late, too: that is told, also by another life of the agent.
    drop(agent);
    let agent = high.start();
    crossing.send(6..11);
    let second = raised(&[first]);
    high.run(["acknowledge"]).success();
    // And so is that they are late still.
    raised(&[first, second]);
    high.run(["acknowledge"]).success();

    // The agent can't say how it does any more.
    let report = high.state_dir().join("status.json");
    wait_until(PATIENCE, "the report's place to be taken", || {
        let _ = std::fs::remove_file(&report);
        std::fs::create_dir(&report).is_ok()
    });
    wait_until(PATIENCE, "an agent that is silent", || {
        let (level, words) = verdict(page);
        level == "bad" && words.contains("has not said for a while what it does")
    });
    assert!(curl(&format!("http://{page}/readyz"), &[]).contains("has not said for a while"));
    drop(agent);
}

#[test]
fn a_low_side_is_not_green_while_an_origin_is_silent() {
    let crossing = Crossing::new("page-silent");
    let (low, page) = (&crossing.pair.low, tests::sandbox::free_address());
    let silence = "[admission]\nsilence-alarm = \"3s\"\n";
    let inbox = Crossing::quick_inbox();
    low.configure(&format!("{inbox}{silence}[page]\nlisten = \"{page}\"\n"));
    let _agent = low.start();
    let raised = |before: &[i64]| {
        wait_for(PATIENCE, "an alarm that nothing comes", || {
            let ids = alarms(&low.status(), "silence");
            ids.into_iter().find(|id| !before.contains(id))
        })
    };
    let first = raised(&[]);
    low.run(["acknowledge"]).success();
    let (level, words) = verdict(page);
    assert_ne!(level, "good", "{words}");
    assert!(words.contains("plant-7"), "{words}");
    let told = low.run(["status"]).success();
    assert!(!told.contains("nothing is wrong"), "{told}");
    raised(&[first]);
}

#[test]
fn without_a_word_in_the_configuration_the_page_is_on_a_socket_for_those_who_may() {
    let crossing = Crossing::new("page-socket");
    crossing.configure(100);
    let low = &crossing.pair.low;
    let agent = low.start();
    let socket = low.state_dir().join("page.sock").display().to_string();
    let ask = |path: &str| curl(&format!("http://localhost{path}"), &["--unix-socket", &socket]);
    assert_eq!(ask("/healthz"), "alive\n");
    assert!(ask("/status.json").contains("\"side\":\"low\""));
    // One that was killed leaves its socket; the next one takes its place.
    agent.kill();
    let agent = low.start();
    wait_until(PATIENCE, "the page of the second life", || ask("/healthz") == "alive\n");
    // Where the socket is forwarded to a browser, another site's name may lead there.
    let foreign = curl("http://evil.example/status.json", &["--unix-socket", &socket]);
    assert!(foreign.contains("by its own name") && !foreign.contains("side"), "{foreign}");
    assert!(agent.stop(Duration::from_secs(30)).success());
    assert!(!std::path::Path::new(&socket).exists());
}
