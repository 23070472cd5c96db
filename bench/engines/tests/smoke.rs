//! The whole program once, with tiny sizes: every workload on every engine.

use std::process::Command;

#[test]
fn every_workload_runs_on_every_engine() {
    let dir = tempfile::Builder::new()
        .prefix("smoke-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_corelith-engine-bench"))
        .arg("--smoke")
        .args(["--engines", "ours,rocksdb,fjall"])
        .arg("--dir")
        .arg(dir.path())
        .arg("--timeline-dir")
        .arg(dir.path().join("timelines"))
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let (text, complaints) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{text}{complaints}");

    let report: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4 + 1 + 4 + 4 + 1 + 1);
    for case in cases {
        let title = case["title"].as_str().unwrap();
        assert!(text.contains(title), "{title} is not in the tables");
        let engines = case["engines"].as_array().unwrap();
        assert_eq!(engines.len(), 3, "{title}");
        for engine in engines {
            let figure = |name: &str| engine["medians"][name].as_f64();
            assert!(figure("ops_per_second") > Some(0.0), "{title}: {engine}");
            assert!(figure("peak_resident_mib") > Some(1.0), "{title}: {engine}");
            let writes = !title.starts_with("get");
            assert_eq!(figure("write_amplification").is_some(), writes, "{title}");
            assert_eq!(figure("put_max_us").is_some(), writes, "{title}");
            let is_probed = title.starts_with("timeline");
            for name in ["stalls", "stalled_ms", "probe_p99_us"] {
                assert_eq!(figure(name).is_some(), is_probed, "{title}: {name}");
            }
        }
    }
    for engine in ["ours", "rocksdb", "fjall"] {
        for kind in ["svg", "json"] {
            let file = dir
                .path()
                .join(format!("timelines/timeline-{engine}.{kind}"));
            assert!(file.metadata().unwrap().len() > 1000, "{}", file.display());
        }
    }
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with("engine-bench-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn two_cores_share_the_keys() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // A get that misses its key fails the run.
    let output = Command::new(env!("CARGO_BIN_EXE_corelith-engine-bench"))
        .args(["--smoke", "--engines", "ours", "--cores", "2"])
        .args(["--workload", "fill,get,mixed"])
        .arg("--dir")
        .arg(dir.path())
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
}

#[test]
fn a_shard_is_filled_killed_and_opened() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_corelith-engine-bench"))
        .args(["--smoke", "--workload", "scale"])
        .arg("--dir")
        .arg(dir.path())
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let report: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let (filled, read) = (&report["scale"]["filled"], &report["scale"]["read"]);
    assert!(
        filled["write_amplification"].as_f64() > Some(1.0),
        "{filled}"
    );
    assert!(read["replayed_entries"].as_u64() > Some(0), "{read}");
    assert_eq!(read["gets"], 5001, "{read}");
}
