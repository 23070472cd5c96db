//! The messages between clients and nodes: requests, answers, and the reports that answers carry.

pub mod cluster;
pub mod map;
pub(crate) mod reply_meta;
pub mod request;
pub mod response;
pub mod status;
pub mod storage;
pub mod upload;
