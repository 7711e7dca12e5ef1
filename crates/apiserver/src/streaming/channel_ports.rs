//! Ports of a Pod in the messages of one WebSocket: two channels for each, one for bytes and one for what went wrong. The first byte of a
//! message says whose the rest is. The ports are those of the request, and each has one connection.
//!
//! Invariants: the first message on a channel is its port, as two bytes, the lower one first; no channel's end can be said, so that the
//! connection lasts until each port's has ended.

use std::collections::HashMap;

use futures::future;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::channels::{self, Inward};
use super::link::Watch;
use super::messages::{self, Messages};
use super::pod_ports::{self, Pod};
use super::relay::{Inlet, Mark, Outlet, WAITING, inflow};

/// Serves a client until it is gone or nothing is left to forward.
pub(super) async fn serve(io: impl AsyncRead + AsyncWrite, pod: &Pod, ports: &[u16], watch: &Watch) {
    let (from, mut out) = tokio::io::split(io);
    let (frames, queue) = mpsc::channel(WAITING);
    let (mut to, mut all) = (HashMap::new(), Vec::new());
    for (index, port) in (0_u8..u8::MAX).step_by(2).zip(ports) {
        let (inflow, inlet) = inflow();
        to.insert(index, inflow);
        let outlet = |channel| Outlet::new(Mark::Channel(channel), frames.clone());
        all.push(forward(pod, *port, inlet, outlet(index), outlet(index + 1)));
    }
    let answers = frames.downgrade();
    drop(frames);
    let carried = async {
        future::join_all(all).await;
        Ok(())
    };
    let inward = Inward { to, closes: false };
    let mut client = Messages::new(from);
    let read = channels::read(&mut client, inward, answers, watch);
    let left = messages::carry(&mut out, queue, watch, carried, read).await;
    messages::leave(client, out, left).await;
}

/// One port, to the end of the Pod's side.
async fn forward(pod: &Pod, port: u16, input: Inlet, data: Outlet, error: Outlet) {
    for outlet in [&data, &error] {
        // Who is gone is noticed where it is written to.
        let _ = outlet.send(&port.to_le_bytes()).await;
    }
    match pod.connect(port).await {
        Ok(connection) => pod_ports::carry(connection, input, &data).await,
        Err(why) => {
            let _ = error.send(pod.refusal(&port.to_string(), &why).as_bytes()).await;
        }
    }
}
