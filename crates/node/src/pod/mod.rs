//! One Pod: its containers' records, what to do about them ([`plan`], pure), how they look from outside ([`status`], pure), and the
//! worker that carries it out.

mod alarm;
mod backoff;
mod lost;
mod plan;
mod publish;
mod record;
mod setup;
mod status;
mod worker;

pub(crate) use worker::{Mail, Worker};
