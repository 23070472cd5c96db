//! A first hour with a cluster: every command, the same through the SDK, a stop and a start.

use crate::cluster::Cluster;
use corelith_client::{Client, Error};
use futures_util::TryStreamExt as _;

#[test]
fn the_command_line_reads_what_it_wrote_also_after_a_restart() {
    let mut cluster = Cluster::start();
    for number in 0..20 {
        cluster.run_ok(&[
            "put",
            &format!("fruit/{number:02}"),
            &format!("value {number}"),
        ]);
    }
    assert_eq!(cluster.run_ok(&["get", "fruit/07"]).trim_end(), "value 7");

    let missing = cluster.run(&["get", "fruit/99"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(missing.stdout.is_empty(), "{missing:?}");

    cluster.run_ok(&["delete", "fruit/19"]);
    let listed = cluster.run_ok(&["scan", "fruit/"]);
    let keys: Vec<&str> = listed
        .lines()
        .filter(|line| line.contains("fruit/"))
        .collect();
    assert_eq!(keys.len(), 19, "{listed}");
    assert!(keys.is_sorted(), "{listed}");

    let status = cluster.run_ok(&["status"]);
    for node in 1..=3 {
        assert!(status.contains(&node.to_string()), "{status}");
    }
    let stopped = cluster.stop_all();
    assert!(
        stopped.iter().all(std::process::ExitStatus::success),
        "{stopped:?}"
    );
    cluster.start_all();
    assert_eq!(cluster.run_ok(&["scan", "fruit/"]), listed);
}

#[test]
fn a_conditional_write_on_the_command_line_succeeds_once() {
    let cluster = Cluster::start();
    cluster.run_ok(&["cas", "lock", "mine", "--absent"]);
    let second = cluster.run(&["cas", "lock", "yours", "--absent"]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let complaint = String::from_utf8_lossy(&second.stderr);
    assert!(complaint.contains("lock has version"), "{complaint}");
    assert_eq!(cluster.run_ok(&["get", "lock"]).trim_end(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_reads_what_it_wrote_also_after_a_restart() {
    let mut cluster = Cluster::start();
    let client = cluster.client().await;
    versions_decide_conditional_writes(&client).await;
    sizes(&client).await;
    scans_are_in_order(&client).await;
    let before = client.get("versioned").await.unwrap();

    let stopped = cluster.stop_all();
    assert!(
        stopped.iter().all(std::process::ExitStatus::success),
        "{stopped:?}"
    );
    cluster.start_all();

    // The same client finds the cluster again, and one that has seen nothing agrees with it.
    for client in [client, cluster.client().await] {
        let after = client.get("versioned").await.unwrap();
        assert_eq!(
            (after.value, after.version),
            (before.value.clone(), before.version)
        );
        scans_are_in_order(&client).await;
    }
}

async fn versions_decide_conditional_writes(client: &Client) {
    let first = client.put("versioned", "one").if_absent().await.unwrap();
    let error = client
        .put("versioned", "two")
        .if_absent()
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Conflict { current } if current == Some(first.version)),
        "{error:?}"
    );
    let second = client
        .put("versioned", "two")
        .if_version(first.version)
        .await
        .unwrap();
    assert!(second.version > first.version);
    let stale = client.delete("versioned").if_version(first.version).await;
    assert!(matches!(stale, Err(Error::Conflict { .. })), "{stale:?}");
    client
        .delete("versioned")
        .if_version(second.version)
        .await
        .unwrap();
    assert!(matches!(
        client.get("versioned").await,
        Err(Error::NotFound)
    ));
    client.put("versioned", "three").if_absent().await.unwrap();
    assert_eq!(client.get("versioned").await.unwrap().value, "three");
}

/// Up to more than fits in one frame; longer ones are in `large`.
async fn sizes(client: &Client) {
    const FRAME: usize = 8 << 20;
    assert_eq!(client.limits().value_bytes_max, 1 << 31);
    for len in [0, 1, 4095, 4096, 100_000, 3 << 20, FRAME, FRAME + 1] {
        let value: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        client.put("sized", value.clone()).await.unwrap();
        assert!(
            client.get("sized").await.unwrap().value == value,
            "{len} bytes"
        );
    }
    let upload = client.upload("sized").length((1 << 31) + 1);
    let error = upload.start().await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    client.delete("sized").await.unwrap();
}

async fn scans_are_in_order(client: &Client) {
    for number in 0..100 {
        client
            .put(format!("scan/{number:03}"), format!("{number}"))
            .await
            .unwrap();
    }
    let entries: Vec<_> = client.scan("scan/").try_collect().await.unwrap();
    let found: Vec<String> = entries
        .iter()
        .map(|entry| String::from_utf8(entry.key.to_vec()).unwrap())
        .collect();
    let expected: Vec<String> = (0..100).map(|number| format!("scan/{number:03}")).collect();
    assert_eq!(found, expected);
    let few: Vec<_> = client.scan("scan/").limit(7).try_collect().await.unwrap();
    assert_eq!(few.len(), 7);
}
