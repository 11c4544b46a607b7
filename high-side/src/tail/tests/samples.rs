//! Real logs, byte for byte.

use super::*;

#[test]
fn every_line_of_the_samples_arrives_as_it_is() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/samples");
    if !samples.is_dir() {
        eprintln!("skipped: no samples at {}", samples.display());
        return;
    }
    let mut files = Vec::new();
    for dir in [
        "k8s-audit/licensed",
        "k8s-audit/no-licence",
        "falco/licensed",
        "falco/no-licence",
        "falco/no-licence/streams",
    ] {
        let entries = fs::read_dir(samples.join(dir)).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    assert!(files.len() > 10);
    for file in files {
        let bytes = fs::read(&file).unwrap();
        let mut rig = Rig::new("sample.log");
        // In odd pieces, with restarts.
        for (n, piece) in bytes.chunks(70_001).enumerate() {
            rig.append("sample.log", piece);
            rig.step();
            if n % 3 == 0 {
                rig.restart();
            }
        }
        rig.rename("sample.log", "sample.log.1");
        rig.pass(Duration::from_mins(1));
        let lines: Vec<&[u8]> =
            bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert!(rig.got.iter().map(|got| &got.raw[..]).eq(lines), "{}", file.display());
        assert!(rig.got.iter().all(|got| got.cut_from.is_none()));
    }
}
