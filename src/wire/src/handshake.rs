//! The start of a connection: the connecting side sends a [`Hello`], the other answers with a
//! [`Welcome`]. Both have a fixed size and are parsed by hand, so that any two versions understand each
//! other well enough to say why they cannot continue.
//!
//! ```text
//! Hello, 48 bytes                      Welcome, 64 bytes
//!  0  8  magic "CORELITH"               0  8  magic "CORELITH"
//!  8  2  oldest protocol version        8  2  status
//! 10  2  newest protocol version       10  2  protocol version to speak
//! 12  1  role                          12  2  core that answers
//! 13  3  zero                          14  2  zero
//! 16  8  features                      16  8  features in use
//! 24  8  cluster id, 0 = any           24  8  cluster id
//! 32  8  node id of a peer             32  8  node id
//! 40  4  zero                          40  4  longest value, bytes
//! 44  4  crc32c of 0..44               44  4  requests in flight, at most
//!                                      48  4  longest key, bytes
//!                                      52  4  writes of a session in flight, at most
//!                                      56  4  epoch of the cluster map
//!                                      60  4  crc32c of 0..60
//! ```

use crate::error::HandshakeError;
use crate::frame::field;
use crate::ids::{ClusterId, Epoch, NodeId};
use crate::limits;
use crate::version::{self, Mismatch};
use bytes::BufMut;

/// The first bytes of either direction.
pub const MAGIC: [u8; 8] = *b"CORELITH";
/// Size of a [`Hello`].
pub const HELLO_BYTES: usize = 48;
/// Size of a [`Welcome`].
pub const WELCOME_BYTES: usize = 64;

/// The connecting side's purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Send requests of an application.
    Client = 1,
    /// Send Raft messages.
    Peer = 2,
    /// Send or fetch bulk data.
    Bulk = 3,
    /// Ask who the cluster is: one question about its formation, one answer.
    Formation = 4,
    /// Send beats.
    Beats = 5,
}

impl Role {
    /// The oldest protocol version that this code speaks with that side.
    fn oldest_version(self) -> u16 {
        match self {
            Self::Client | Self::Bulk => version::OLDEST,
            Self::Peer | Self::Formation | Self::Beats => version::OLDEST_OF_NODES,
        }
    }
}

/// The connecting side's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version it speaks.
    pub oldest: u16,
    /// Newest protocol version it speaks.
    pub newest: u16,
    /// Its purpose.
    pub role: Role,
    /// Optional features that it supports.
    pub features: u64,
    /// The cluster that it expects; 0 for any.
    pub cluster: ClusterId,
    /// Its node id if it is a peer.
    pub node: NodeId,
}

impl Hello {
    /// The hello of an application's connection.
    pub fn client(cluster: ClusterId) -> Self {
        Self::new(Role::Client, cluster, NodeId(0))
    }

    /// The hello of `node`'s connection to a peer.
    pub fn peer(cluster: ClusterId, node: NodeId) -> Self {
        Self::new(Role::Peer, cluster, node)
    }

    /// The hello of `node`'s connection for beats.
    pub fn beats(cluster: ClusterId, node: NodeId) -> Self {
        Self::new(Role::Beats, cluster, node)
    }

    /// The hello of `node`'s question about the cluster's formation, whichever that may be.
    pub fn formation(node: NodeId) -> Self {
        Self::new(Role::Formation, ClusterId(0), node)
    }

    fn new(role: Role, cluster: ClusterId, node: NodeId) -> Self {
        let (oldest, newest) = (role.oldest_version(), version::NEWEST);
        Self {
            oldest,
            newest,
            role,
            features: version::FEATURES,
            cluster,
            node,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let mut fields = bytes.as_mut_slice();
        fields.put_slice(&MAGIC);
        fields.put_u16_le(self.oldest);
        fields.put_u16_le(self.newest);
        fields.put_u8(self.role as u8);
        fields.put_bytes(0, 3);
        fields.put_u64_le(self.features);
        fields.put_u64_le(self.cluster.0);
        fields.put_u64_le(self.node.0);
        assert_eq!(fields.len(), 8, "zeros and the checksum are left");
        seal(&mut bytes);
        bytes
    }

    /// Parses it.
    ///
    /// # Errors
    /// The bytes are not a hello, are damaged, or hold an unknown role.
    pub fn parse(bytes: &[u8; HELLO_BYTES]) -> Result<Self, HandshakeError> {
        check(bytes)?;
        let role = match bytes[12] {
            1 => Role::Client,
            2 => Role::Peer,
            3 => Role::Bulk,
            4 => Role::Formation,
            5 => Role::Beats,
            other => {
                return Err(HandshakeError::Unknown {
                    what: "role",
                    value: other.into(),
                });
            }
        };
        Ok(Self {
            oldest: u16::from_le_bytes(field(bytes, 8)),
            newest: u16::from_le_bytes(field(bytes, 10)),
            role,
            features: u64::from_le_bytes(field(bytes, 16)),
            cluster: ClusterId(u64::from_le_bytes(field(bytes, 24))),
            node: NodeId(u64::from_le_bytes(field(bytes, 32))),
        })
    }
}

/// The server's verdict on a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Frames may follow.
    Welcome = 0,
    /// The connecting side's versions are too old.
    TooOld = 1,
    /// The connecting side's versions are too new.
    TooNew = 2,
    /// This is another cluster.
    OtherCluster = 3,
    /// The server accepts no more connections now.
    Busy = 4,
    /// The server does not offer this role to that side.
    RoleRefused = 5,
}

/// The answering side's first bytes. It closes the connection unless the status is
/// [`Status::Welcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The verdict on the hello.
    pub status: Status,
    /// The version to speak.
    pub version: u16,
    /// The core that answers.
    pub core: u16,
    /// Optional features that both sides support.
    pub features: u64,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its node id.
    pub node: NodeId,
    /// Longest value, in bytes.
    pub value_bytes_max: u32,
    /// Most requests in flight on this connection.
    pub in_flight_max: u32,
    /// Longest key, in bytes.
    pub key_bytes_max: u32,
    /// Most writes of a session in flight, counted from its lowest unanswered one.
    pub session_window: u32,
    /// Generation of its cluster map.
    pub epoch: Epoch,
}

impl Welcome {
    /// The answer of `node`'s `core` to `hello`, with this version's limits. The caller may still refuse
    /// (`Busy`, `RoleRefused`).
    pub fn answer(
        hello: &Hello,
        cluster: ClusterId,
        epoch: Epoch,
        node: NodeId,
        core: u16,
    ) -> Self {
        let least = hello.role.oldest_version();
        let (mut status, version) = match version::negotiate(least, hello.oldest, hello.newest) {
            Ok(version) => (Status::Welcome, version),
            Err(Mismatch::TheyAreTooOld) => (Status::TooOld, least),
            Err(Mismatch::TheyAreTooNew) => (Status::TooNew, version::NEWEST),
        };
        if status == Status::Welcome && hello.cluster.0 != 0 && hello.cluster != cluster {
            status = Status::OtherCluster;
        }
        Self {
            status,
            version,
            core,
            features: hello.features & version::FEATURES,
            cluster,
            node,
            value_bytes_max: limits::VALUE_BYTES_MAX as u32,
            in_flight_max: limits::CONNECTION_IN_FLIGHT_MAX,
            key_bytes_max: limits::KEY_BYTES_MAX as u32,
            session_window: limits::SESSION_WINDOW,
            epoch,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; WELCOME_BYTES] {
        let mut bytes = [0; WELCOME_BYTES];
        let mut fields = bytes.as_mut_slice();
        fields.put_slice(&MAGIC);
        fields.put_u16_le(self.status as u16);
        fields.put_u16_le(self.version);
        fields.put_u16_le(self.core);
        fields.put_u16_le(0);
        fields.put_u64_le(self.features);
        fields.put_u64_le(self.cluster.0);
        fields.put_u64_le(self.node.0);
        fields.put_u32_le(self.value_bytes_max);
        fields.put_u32_le(self.in_flight_max);
        fields.put_u32_le(self.key_bytes_max);
        fields.put_u32_le(self.session_window);
        fields.put_u32_le(self.epoch.0);
        assert_eq!(fields.len(), 4, "the checksum is left");
        seal(&mut bytes);
        bytes
    }

    /// Parses it.
    ///
    /// # Errors
    /// The bytes are not a welcome, are damaged, or hold an unknown status.
    pub fn parse(bytes: &[u8; WELCOME_BYTES]) -> Result<Self, HandshakeError> {
        check(bytes)?;
        let status = match u16::from_le_bytes(field(bytes, 8)) {
            0 => Status::Welcome,
            1 => Status::TooOld,
            2 => Status::TooNew,
            3 => Status::OtherCluster,
            4 => Status::Busy,
            5 => Status::RoleRefused,
            value => {
                return Err(HandshakeError::Unknown {
                    what: "status",
                    value,
                });
            }
        };
        Ok(Self {
            status,
            version: u16::from_le_bytes(field(bytes, 10)),
            core: u16::from_le_bytes(field(bytes, 12)),
            features: u64::from_le_bytes(field(bytes, 16)),
            cluster: ClusterId(u64::from_le_bytes(field(bytes, 24))),
            node: NodeId(u64::from_le_bytes(field(bytes, 32))),
            value_bytes_max: u32::from_le_bytes(field(bytes, 40)),
            in_flight_max: u32::from_le_bytes(field(bytes, 44)),
            key_bytes_max: u32::from_le_bytes(field(bytes, 48)),
            session_window: u32::from_le_bytes(field(bytes, 52)),
            epoch: Epoch(u32::from_le_bytes(field(bytes, 56))),
        })
    }

    /// Checks that frames may follow after `hello`.
    ///
    /// # Errors
    /// Why not, from the connecting side's view.
    pub fn accepted(&self, hello: &Hello) -> Result<(), HandshakeError> {
        match self.status {
            Status::Welcome if hello.cluster.0 != 0 && hello.cluster != self.cluster => {
                Err(HandshakeError::OtherCluster {
                    ours: hello.cluster,
                    theirs: self.cluster,
                })
            }
            Status::Welcome if self.version < hello.oldest || self.version > hello.newest => {
                Err(HandshakeError::Unknown {
                    what: "version",
                    value: self.version,
                })
            }
            Status::Welcome => Ok(()),
            Status::TooOld => Err(HandshakeError::TooOld { ours: hello.newest }),
            Status::TooNew => Err(HandshakeError::TooNew { ours: hello.oldest }),
            Status::OtherCluster => Err(HandshakeError::OtherCluster {
                ours: hello.cluster,
                theirs: self.cluster,
            }),
            Status::Busy => Err(HandshakeError::Busy),
            Status::RoleRefused => Err(HandshakeError::RoleRefused),
        }
    }
}

/// Writes the checksum into the last four bytes.
fn seal(bytes: &mut [u8]) {
    if let Some((fields, place)) = bytes.split_last_chunk_mut::<4>() {
        *place = crc32c::crc32c(fields).to_le_bytes();
    }
}

fn check(bytes: &[u8]) -> Result<(), HandshakeError> {
    let Some((fields, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(HandshakeError::NotCorelith);
    };
    if !fields.starts_with(&MAGIC) {
        return Err(HandshakeError::NotCorelith);
    }
    if crc32c::crc32c(fields) != u32::from_le_bytes(*crc) {
        return Err(HandshakeError::Checksum);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
