//! What runs on a node: its groups, and how it answers peers and clients.

use super::commands::open_body;
use super::large::{ask_upload, found};
use super::{Ask, CLUSTER, GetReply, Held, PORT, Shut};
use crate::introduction::Admit;
use crate::route::Resolve;
use crate::{
    Beats, GroupError, GroupMember, Groups, InboundBeats, Liveness, LivenessOptions, Options,
    Origin, Route,
};
use bytes::{Bytes, BytesMut};
use corelith_io::{Receiver, Sender, TcpListener, TcpStream};
use corelith_shards::{LogId, NodeId, ReplicaId, Shard, ShardId, ShardOptions};
use corelith_wire::handshake::{HELLO_BYTES, Hello, Role, Welcome};
use corelith_wire::peer::{Introduction, Settings, Verdict};
use corelith_wire::request::WriteCommand;
use corelith_wire::{ClusterId, Epoch, FullClusterId, Mark, Start, StoreId};
use futures_util::FutureExt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// A node that runs.
pub(super) struct Node {
    pub(super) me: NodeId,
    pub(super) store: StoreId,
    pub(super) founding: [u128; 3],
    pub(super) held: Held,
    pub(super) judge: Rc<dyn Fn(NodeId, Introduction) -> Verdict>,
    pub(super) hidden: Option<NodeId>,
    pub(super) shut: Shut,
    pub(super) address: SocketAddr,
    pub(super) peers: Vec<SocketAddr>,
    pub(super) options: Options,
    pub(super) liveness: LivenessOptions,
    /// To the core of the beats.
    pub(super) hand_over: Sender<InboundBeats>,
    pub(super) shards: u32,
    pub(super) memtable_bytes: usize,
    pub(super) tune: fn(&mut ShardOptions),
}

impl Node {
    fn resolve(&self) -> Resolve {
        let (peers, hidden) = (self.peers.clone(), self.hidden);
        Rc::new(move |node: NodeId, _| {
            let found = (hidden != Some(node)).then(|| peers[node.0 as usize - 1]);
            async move { found }.boxed_local()
        })
    }

    fn admit(&self) -> Admit {
        let (judge, judging) = (Rc::clone(&self.judge), self.me);
        Rc::new(move |theirs| {
            let verdict = judge(judging, theirs);
            async move { verdict }.boxed_local()
        })
    }

    /// What runs on the core of the beats, once it has where connections come from.
    pub(super) fn beats(
        &self,
        me: Introduction,
        liveness: Arc<Liveness>,
    ) -> impl FnOnce(Receiver<InboundBeats>) -> Beats + use<> {
        let (resolve, admit) = (self.resolve(), self.admit());
        let peers = (1..=self.peers.len() as u64).map(NodeId).collect();
        move |inbound| Beats {
            liveness,
            me,
            epoch: 1,
            peers,
            changes: corelith_io::channel(1).1,
            resolve,
            admit,
            inbound,
        }
    }

    pub(super) async fn open(&self, me: Introduction, liveness: Arc<Liveness>) -> Groups {
        let route = Route {
            core_of: Rc::new(|_, _| 0),
            resolve: self.resolve(),
        };
        let options = self.options.clone();
        let groups = Groups::new(me, 1, route, self.admit(), (0, liveness), options).unwrap();
        if let Held::Admitted(replica) = self.held {
            open_admitted(&groups, self.store, self.memtable_bytes, replica, None).await;
        }
        if self.held != Held::Founding {
            return groups;
        }
        for shard in (0..self.shards).map(ShardId) {
            let mut options = shard_options(shard, self.memtable_bytes);
            (self.tune)(&mut options);
            let dir = PathBuf::from(format!("/data-{}/shard-{}", self.store, shard.0));
            let opened = Shard::open(&dir, options).await.unwrap();
            let founders = self.founding.len();
            let first = shard.0 as usize % founders;
            let members: Vec<GroupMember> = (0..founders)
                .map(|n| NodeId(((first + n) % founders) as u64 + 1))
                .map(|node| GroupMember {
                    replica: ReplicaId::first(node),
                    store: StoreId(self.founding[node.0 as usize - 1]),
                })
                .collect();
            let preferred = members[0].replica.node();
            groups
                .open(opened, shard, Origin::Founding(members), preferred)
                .await
                .unwrap();
        }
        groups
    }

    pub(super) async fn serve(&self, groups: Groups, asks: Receiver<Ask>) {
        let listener = TcpListener::bind(self.address).unwrap();
        let served = groups.clone();
        drop(corelith_io::spawn(async move {
            while let Ok(ask) = asks.recv().await {
                answer(&served, ask);
            }
        }));
        let me = self.me;
        while let Ok(stream) = listener.accept().await {
            let hand_over = self.hand_over.clone();
            drop(corelith_io::spawn(serve_peer(
                groups.clone(),
                (me, Rc::clone(&self.shut)),
                stream,
                hand_over,
            )));
        }
    }
}

pub(super) fn shard_options(shard: ShardId, memtable_bytes: usize) -> ShardOptions {
    let mut options = ShardOptions::new(CLUSTER, shard);
    options.memtable_bytes = memtable_bytes;
    options.segment_bytes = 1 << 20;
    options.log_cache_bytes = 1 << 20;
    options
}

/// Opens a replica of shard 0 that was taken in, in a directory of its own.
pub(super) async fn open_admitted(
    groups: &Groups,
    store: StoreId,
    memtable_bytes: usize,
    replica: ReplicaId,
    told: Option<(LogId, Bytes)>,
) {
    let shard = ShardId(0);
    let options = shard_options(shard, memtable_bytes);
    let dir = format!("/data-{store}/shard-0-{}", replica.generation());
    let opened = Shard::open(&PathBuf::from(dir), options).await.unwrap();
    let origin = Origin::Admitted { replica, told };
    let preferred = NodeId(1);
    groups.open(opened, shard, origin, preferred).await.unwrap();
}

/// What a node says of itself.
pub(crate) fn introduction(node: NodeId, store: StoreId) -> Introduction {
    Introduction {
        cluster: FullClusterId(CLUSTER.into()),
        node,
        store,
        start: Start {
            incarnation: 1,
            nonce: corelith_io::random_u64(),
        },
        mark: Mark::default(),
        port: PORT,
        cores: 1,
        settings: Settings::new(1, 3, 0),
    }
}

/// The groups of a node that is alone.
pub(crate) fn lone_groups(me: Introduction, options: Options) -> Groups {
    let route = Route {
        core_of: Rc::new(|_, _| 0),
        resolve: Rc::new(|_, _| async { None }.boxed_local()),
    };
    let admit = Rc::new(|_| async { Verdict::Known }.boxed_local());
    let liveness = Liveness::new(me.node, me.start, 1, LivenessOptions::default());
    Groups::new(me, 1, route, admit, (0, liveness), options).unwrap()
}

async fn serve_peer(
    groups: Groups,
    (me, shut): (NodeId, Shut),
    stream: TcpStream,
    hand_over: Sender<InboundBeats>,
) -> Option<()> {
    let address = stream.peer_addr().ok();
    let (mut read, mut write) = stream.into_split();
    let mut received = BytesMut::new();
    let hello = loop {
        if let Some(hello) = received.first_chunk::<HELLO_BYTES>() {
            break Hello::parse(hello).ok()?;
        }
        if read.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    };
    let welcome = Welcome::answer(&hello, ClusterId(CLUSTER), Epoch(1), me, 0);
    write.write_all(&welcome.encode()).await.ok()?;
    let leftover = received.split_off(HELLO_BYTES);
    let peer = hello.node;
    if hello.role == Role::Beats {
        let connection = InboundBeats {
            peer,
            address,
            stream: read.unsplit(write).detach().ok()?,
            leftover,
        };
        return hand_over.try_send(connection).ok();
    }
    if shut.borrow().contains(&(peer, me)) {
        return None;
    }
    groups
        .serve_peer(read, write, leftover, peer, address)
        .await;
    Some(())
}

fn answer(groups: &Groups, ask: Ask) {
    // The client may have given up.
    match ask {
        Ask::Write(shard, command, reply) => match groups.group(shard) {
            Some(group) => {
                let parsed = WriteCommand::parse(&command).unwrap();
                group.submit(command, &parsed, move |answer| drop(reply.try_send(answer)));
            }
            None => drop(reply.try_send(Err(GroupError::Unavailable))),
        },
        Ask::Open(shard, reply) => match groups.group(shard) {
            Some(group) => {
                group.submit_open_session(open_body(), move |answer| drop(reply.try_send(answer)));
            }
            None => drop(reply.try_send(Err(GroupError::Unavailable))),
        },
        Ask::Get(shard, key, reply) => get(groups, shard, key, reply, false),
        Ask::GetHere(shard, key, reply) => get(groups, shard, key, reply, true),
        Ask::Upload(shard, ask, reply) => match groups.group(shard) {
            Some(group) => drop(corelith_io::spawn(async move {
                let answer = ask_upload(group, ask).await;
                drop(reply.try_send(answer));
            })),
            None => drop(reply.try_send(Err(GroupError::Unavailable))),
        },
    }
}

fn get(groups: &Groups, shard: ShardId, key: Bytes, reply: Sender<GetReply>, here: bool) {
    let Some(group) = groups.group(shard) else {
        return drop(reply.try_send(Err(GroupError::Unavailable)));
    };
    drop(corelith_io::spawn(async move {
        let point = match here {
            true => group.replica_read_barrier().await,
            false => group.read_barrier().await,
        };
        let answer = match point {
            Ok(point) => Ok((point, found(&group, &key).await)),
            Err(error) => Err(error),
        };
        drop(reply.try_send(answer));
    }));
}
