//! What clients and nodes say to each other: requests, their answers, and what answers carry.

pub mod map;
pub mod request;
pub mod response;
pub mod status;
pub mod storage;
