//! What every controller is made of: caches fed by watches, work queues, the loop that drains them, writes that the caches
//! know of, and Events.
//!
//! What it must not know: any particular controller.

pub(crate) mod cache;
pub(crate) mod clock;
pub(crate) mod correlate;
pub(crate) mod key;
pub(crate) mod queue;
pub(crate) mod recorder;
pub(crate) mod reflector;
pub(crate) mod runner;
pub(crate) mod synced;
pub(crate) mod writer;
