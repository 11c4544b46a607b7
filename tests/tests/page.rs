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
            let file = format!("{name}-{size}.png");
            std::fs::copy(pictures.join(&file), Path::new(&keep).join(&file)).expect("a picture");
        }
    }
    serde_json::from_str(&done.success()).expect("what was found")
}

#[test]
fn the_pages_fit_three_sizes_and_everybody_can_read_them() {
    let crossing = Crossing::new("page-look");
    let (high, low) = (&crossing.pair.high, &crossing.pair.low);
    let [high_page, low_page] = crossing.configure_with_pages(100);
    let _agents = [low.start(), high.start()];
    crossing.send(1..RECORDS + 1);
    assert_eq!(crossing.wait_drained(), RECORDS);
    let name = format!("{}.pstk", "a-name-without-any-space-".repeat(8));
    std::fs::write(low.inbox().join(name), "no bundle").expect("a file can be put there");
    wait_until(PATIENCE, "a refusal", || low.status()["quarantined"] == 1);
    // A flow is what lies between two samples.
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
    }
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
    assert!(agent.stop(Duration::from_secs(30)).success());
    assert!(!std::path::Path::new(&socket).exists());
}
