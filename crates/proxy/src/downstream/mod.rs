//! Clients' connections of HTTP/1.1, by hand where that is safe beyond doubt, and by hyper from the first byte on that is not.
//!
//! Most requests are `GET`s of one plain form that nobody can read in two ways: `head.rs` takes those and no others. What
//! they are answered with is written by `answer.rs` and `outlet.rs`; `serve.rs` is the connection. `direct.rs` passes on what no rule wants
//! to look into; `onward.rs` writes its head, `asking.rs` asks for the answer. Those three serve clients of HTTP/2 as well, who say for themselves
//! what their requests are and which form their answers have; `form.rs` says it for clients of HTTP/1.1.
//!
//! Invariants: a request that has a body, may have one, or says anything about framing is never taken; whatever is not taken goes
//! to hyper with every byte that was read, and the connection stays with it; a connection that waits has no buffer.

mod answer;
mod asking;
mod date;
mod direct;
mod form;
mod head;
mod onward;
mod outlet;
mod serve;

pub(crate) use asking::Form;
pub(crate) use direct::{Passable, Passed, Passing, begin, pass, pass_by_policy};
pub(crate) use head::Says;
pub(crate) use serve::serve;
