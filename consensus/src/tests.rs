//! Simulated clusters: real groups, links and engines on simulated disks and networks.

mod breaks;
mod chaos;
mod client;
pub(crate) mod cluster;
mod commits;
mod damage;
mod files;
mod followers;
mod heal;
mod history;
mod idle;
mod leads;
mod members;
mod planted;
mod scenarios;
mod space;
mod stores;
mod tamper;
mod uploads;
