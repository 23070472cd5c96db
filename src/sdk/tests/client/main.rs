//! The client against a scripted cluster over real sockets.

#[cfg(test)]
mod batches;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod downloads;
#[cfg(test)]
mod mock;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod scans;
#[cfg(test)]
mod silence;
#[cfg(test)]
mod uploads;
