//! Orders of operators.

use crate::mock::{Act, Mock};
use corelith_client::{ClusterAnswer, ClusterAsk, ClusterOrder, Error};
use corelith_wire::response::{Failure, Reason};
use std::time::Duration;

fn ask(order: ClusterOrder) -> ClusterAsk {
    ClusterAsk {
        order,
        dry_run: false,
    }
}

fn done(text: &str) -> ClusterAnswer {
    ClusterAnswer::Done {
        lines: vec![text.to_owned()],
    }
}

#[tokio::test]
async fn the_next_node_is_asked_if_one_took_no_order() {
    let mock = Mock::start(3, 2).await;
    let client = mock.client().await;
    let none = Failure::Unavailable {
        reason: Reason::NoQuorum,
        nothing_done: true,
    };
    mock.state().script = [Act::Fail(none), Act::Serve].into();
    let answer = client.cluster(&ask(ClusterOrder::Drain { node: 2 })).await;
    assert_eq!(answer.unwrap(), done("Drain { node: 2 } at node 2"));
}

#[tokio::test]
async fn an_order_is_not_given_twice_but_a_question_is_asked_again() {
    let mock = Mock::start(3, 2).await;
    let client = mock.client().await;
    mock.state().script = [Act::DropAfter].into();
    let order = ask(ClusterOrder::Remove { node: 2 });
    let error = client.cluster(&order).await.unwrap_err();
    assert!(matches!(error, Error::Indeterminate { .. }), "{error}");
    assert_eq!(mock.state().requests, 1);
    mock.state().script = [Act::DropAfter].into();
    let answer = client.cluster(&ask(ClusterOrder::Status)).await;
    assert_eq!(answer.unwrap(), done("Status at node 2"));
    mock.state().script = [Act::DropAfter].into();
    let dry_run = ClusterAsk {
        dry_run: true,
        ..order
    };
    assert!(client.cluster(&dry_run).await.is_ok());
}

#[tokio::test]
async fn a_silent_node_does_not_keep_a_question_waiting() {
    let mock = Mock::start(3, 2).await;
    let client = mock.client().await;
    mock.script([Act::Hold, Act::Hold]);
    let ask = ask(ClusterOrder::Status);
    let answer = tokio::time::timeout(Duration::from_secs(3), client.cluster(&ask)).await;
    assert_eq!(answer.unwrap().unwrap(), done("Status at node 3"));
}
