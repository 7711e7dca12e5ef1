//! Bringing one application's objects into the cluster: what differs, in which steps, what was done, and what is stuck.

pub mod cause;
pub mod compare;
pub mod decide;
pub mod gate;
pub mod live;
pub mod locked;
pub mod operation;
pub mod pods;
pub mod steps;
mod wave;

#[cfg(test)]
mod sequences;
