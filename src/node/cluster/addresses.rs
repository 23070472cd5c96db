//! Where the other nodes are. Names are looked up whenever a connection is made, so that a node is found
//! after its address has changed, and one whose name has none is a node that is down.

use super::map_watch::MapWatch;
use corelith_shards::NodeId;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;

/// Looks nodes up. Belongs to one core; clones share what was said.
#[derive(Clone)]
pub(crate) struct Addresses {
    map: Rc<MapWatch>,
    /// Nodes whose name had no address at the last look.
    nowhere: Rc<RefCell<BTreeSet<NodeId>>>,
}

impl Addresses {
    pub(crate) fn new(map: Rc<MapWatch>) -> Self {
        Self {
            map,
            nowhere: Rc::default(),
        }
    }

    /// The address of a node's core, if its name has one now.
    pub(crate) async fn of(self, node: NodeId, core: u16) -> Option<SocketAddr> {
        let map = self.map.now();
        let member = map.member(node)?;
        let port = member.core_port(core);
        if let Ok(ip) = member.host.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, port));
        }
        let host = member.host.clone();
        match corelith_io::blocking(move || look_up(&host, port)).await {
            Ok(address) => {
                self.nowhere.borrow_mut().remove(&node);
                Some(address)
            }
            Err(reason) => {
                if self.nowhere.borrow_mut().insert(node) {
                    tracing::warn!(
                        "node {} counts as down: its name {:?} has no address ({reason}); it is looked up again \
                         and again",
                        node.0,
                        member.host
                    );
                }
                None
            }
        }
    }
}

/// Asks the name service, which blocks.
pub(crate) fn look_up(host: &str, port: u16) -> Result<SocketAddr, String> {
    let mut found = (host, port).to_socket_addrs().map_err(|e| e.to_string())?;
    found
        .next()
        .ok_or_else(|| "the name service knows none".to_owned())
}
