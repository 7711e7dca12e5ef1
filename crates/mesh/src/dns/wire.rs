//! Messages: questions read, answers written. Pure.
//!
//! Invariants: an answer is never longer than the one who asks can take, and says so where something is left out; what cannot be
//! read is answered with why, never with silence, unless it is no question at all.

use bytes::Bytes;
use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::{
    Message, MessageBuilder, Name, ParsedName, Question, Serial, StaticCompressor, StreamTarget, ToName, Ttl,
};
use domain::rdata::{A, Aaaa, AllRecordData, Cname, Ns, Ptr, Soa, Srv, Txt};
use resources::names::DOMAIN;

use super::zone::{Data, Found, WireName, Zone, text};

/// What is believed of a client without EDNS, and what is sent at most over UDP (RFC 1035, 4.2.1; the DNS flag day of 2020).
const PLAIN: usize = 512;
const UDP: usize = 1232;
/// The longest message over TCP.
const TCP: usize = u16::MAX as usize;
/// Nobody keeps an answer: what has changed is asked anew.
const TTL: Ttl = Ttl::ZERO;

type Target = StaticCompressor<StreamTarget<Vec<u8>>>;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a message that came.
pub(super) enum Step {
    /// Send this.
    Answer(Vec<u8>),
    /// It is not for the cluster's zone: ask others, as it is.
    Forward,
    /// The name is another's: ask others for `target`, and add what they say.
    Chase { target: WireName, kind: Rtype },
    /// Nothing to say.
    Silence,
}

/// Decides on a message. `turn` turns the order of addresses round.
pub(super) fn step(zone: &Zone, bytes: &[u8], transport: Transport, turn: usize) -> Step {
    let Ok(message) = Message::from_octets(bytes) else { return Step::Silence };
    if message.header().qr() {
        return Step::Silence;
    }
    if message.header().opcode() != Opcode::QUERY {
        return Step::Answer(refuse(&message, Rcode::NOTIMP));
    }
    let Ok(question) = message.sole_question() else { return Step::Answer(refuse(&message, Rcode::FORMERR)) };
    // RFC 6891, 6.1.1: one or none.
    let additional = message.additional().into_iter().flatten().flatten();
    if additional.filter(|record| record.rtype() == Rtype::OPT).count() > 1 {
        return Step::Answer(refuse(&message, Rcode::FORMERR));
    }
    if message.opt().is_some_and(|opt| opt.version() > 0) {
        return Step::Answer(bad_version(&message));
    }
    if question.qclass() != Class::IN || [Rtype::AXFR, Rtype::IXFR].contains(&question.qtype()) {
        return Step::Answer(refuse(&message, Rcode::REFUSED));
    }
    let trail = zone.follow(&text(question.qname()));
    match trail.as_slice() {
        [(_, Found::Elsewhere)] => Step::Forward,
        [.., (_, Found::Records(records)), (_, Found::Elsewhere)] if question.qtype() != Rtype::CNAME => {
            match alias(records) {
                Some(target) => Step::Chase { target, kind: question.qtype() },
                None => Step::Answer(refuse(&message, Rcode::SERVFAIL)),
            }
        }
        _ => Step::Answer(answer(&message, &question, &trail, transport, turn)),
    }
}

fn alias(records: &[Data]) -> Option<WireName> {
    records.iter().find_map(|record| match record {
        Data::Cname(target) => Some(target.clone()),
        _ => None,
    })
}

/// The answer to a question about an alias of somebody else's name, with what that somebody (`theirs`) says of it; without,
/// that nobody could be asked.
pub(super) fn chased(zone: &Zone, bytes: &[u8], theirs: Option<&[u8]>, transport: Transport) -> Vec<u8> {
    let Ok(message) = Message::from_octets(bytes) else { return Vec::new() };
    let Ok(question) = message.sole_question() else { return refuse(&message, Rcode::FORMERR) };
    let theirs = theirs.and_then(|bytes| Message::from_octets(bytes).ok());
    let Some(theirs) = theirs else { return refuse(&message, Rcode::SERVFAIL) };
    let trail = zone.follow(&text(question.qname()));
    finish(&message, transport, theirs.header().rcode(), |builder| {
        push_aliases(builder, &question, &trail)?;
        for record in theirs.answer().into_iter().flatten().flatten() {
            let record = record.into_record::<AllRecordData<_, ParsedName<_>>>();
            if let Ok(Some(record)) = record {
                builder.push((record.owner(), TTL, record.data()))?;
            }
        }
        Ok(Soon::Done)
    })
}

/// Whether a denial is to be told.
enum Soon {
    Done,
    Denied,
}

fn answer(
    message: &Message<&[u8]>,
    question: &Question<ParsedName<&[u8]>>,
    trail: &[(String, Found<'_>)],
    transport: Transport,
    turn: usize,
) -> Vec<u8> {
    let nothing = trail.last().is_some_and(|(_, found)| *found == Found::Nothing);
    let rcode = if nothing { Rcode::NXDOMAIN } else { Rcode::NOERROR };
    finish(message, transport, rcode, |builder| {
        let aliased = push_aliases(builder, question, trail)?;
        let Some((name, found)) = trail.last() else { return Ok(Soon::Denied) };
        let owner = if aliased { name.parse::<WireName>().ok() } else { None };
        let single;
        let records: &[Data] = match found {
            Found::Records(records) => records,
            Found::Address(address) => {
                single = [match address {
                    std::net::IpAddr::V4(address) => Data::A(*address),
                    std::net::IpAddr::V6(address) => Data::Aaaa(*address),
                }];
                &single
            }
            Found::Nothing | Found::Elsewhere => &[],
        };
        let kind = question.qtype();
        if kind == Rtype::SOA && text(question.qname()) == DOMAIN {
            push_soa(builder)?;
            return Ok(Soon::Done);
        }
        let wanted: Vec<&Data> = records.iter().filter(|record| kind == Rtype::ANY || of(record) == kind).collect();
        for at in 0..wanted.len() {
            let record = wanted[(at + turn) % wanted.len()];
            match &owner {
                Some(owner) => push(builder, owner, record)?,
                None => push(builder, question.qname(), record)?,
            }
        }
        let said = !wanted.is_empty() || (aliased && kind == Rtype::CNAME);
        Ok(if said { Soon::Done } else { Soon::Denied })
    })
}

/// The aliases that lead to what is asked. True where there are any.
fn push_aliases(
    builder: &mut AnswerBuilder<Target>,
    question: &Question<ParsedName<&[u8]>>,
    trail: &[(String, Found<'_>)],
) -> Result<bool, PushError> {
    let mut any = false;
    for (at, (name, found)) in trail.iter().enumerate() {
        let Found::Records(records) = found else { continue };
        // The last one's own records are the answer, unless it is the alias that is asked for.
        let Some(target) = alias(records).filter(|_| at + 1 < trail.len()) else { continue };
        if question.qtype() == Rtype::CNAME || question.qtype() == Rtype::ANY {
            push(builder, question.qname(), &Data::Cname(target))?;
            return Ok(true);
        }
        match name.parse::<WireName>() {
            Ok(owner) if any => push(builder, &owner, &Data::Cname(target))?,
            _ => push(builder, question.qname(), &Data::Cname(target))?,
        }
        any = true;
    }
    Ok(any)
}

fn of(record: &Data) -> Rtype {
    match record {
        Data::A(_) => Rtype::A,
        Data::Aaaa(_) => Rtype::AAAA,
        Data::Srv { .. } => Rtype::SRV,
        Data::Ptr(_) => Rtype::PTR,
        Data::Cname(_) => Rtype::CNAME,
        Data::Txt(_) => Rtype::TXT,
        Data::Ns(_) => Rtype::NS,
    }
}

fn push(builder: &mut AnswerBuilder<Target>, owner: &impl ToName, record: &Data) -> Result<(), PushError> {
    match record {
        Data::A(address) => builder.push((owner, TTL, A::new(*address))),
        Data::Aaaa(address) => builder.push((owner, TTL, Aaaa::new(*address))),
        Data::Srv { port, target } => builder.push((owner, TTL, Srv::new(0, 100, *port, target))),
        Data::Ptr(name) => builder.push((owner, TTL, Ptr::new(name))),
        Data::Cname(name) => builder.push((owner, TTL, Cname::new(name))),
        Data::Ns(name) => builder.push((owner, TTL, Ns::new(name))),
        Data::Txt(text) => match Txt::<Vec<u8>>::build_from_slice(text.as_bytes()) {
            Ok(text) => builder.push((owner, TTL, text)),
            Err(_) => Ok(()),
        },
    }
}

fn name(text: &str) -> Option<WireName> {
    text.parse().ok()
}

fn soa() -> Option<(WireName, Soa<WireName>)> {
    let (zone, server, mail) =
        (name(DOMAIN)?, name(&format!("ns.dns.{DOMAIN}"))?, name(&format!("hostmaster.{DOMAIN}"))?);
    let seconds = Ttl::from_secs;
    // The last is how long an absence may be kept.
    Some((zone, Soa::new(server, mail, Serial(1), seconds(7200), seconds(1800), seconds(86400), TTL)))
}

fn push_soa(builder: &mut AnswerBuilder<Target>) -> Result<(), PushError> {
    soa().map_or(Ok(()), |(zone, soa)| builder.push((zone, TTL, soa)))
}

/// Writes a message: what `fill` says, the zone's authority where nothing is there, EDNS where it was used.
fn finish(
    message: &Message<&[u8]>,
    transport: Transport,
    rcode: Rcode,
    fill: impl FnOnce(&mut AnswerBuilder<Target>) -> Result<Soon, PushError>,
) -> Vec<u8> {
    let opt = message.opt();
    let limit = match (transport, &opt) {
        (Transport::Tcp, _) => TCP,
        (Transport::Udp, Some(opt)) => usize::from(opt.udp_payload_size()).clamp(PLAIN, UDP),
        (Transport::Udp, None) => PLAIN,
    };
    let mut builder = begin(message, rcode);
    // Room for the record that says what EDNS there is.
    builder.set_push_limit(limit - if opt.is_some() { 11 } else { 0 });
    builder.header_mut().set_aa(true);
    builder.header_mut().set_ra(true);
    let denied = match fill(&mut builder) {
        Ok(Soon::Denied) => true,
        Ok(Soon::Done) => false,
        Err(_) => {
            builder.header_mut().set_tc(true);
            false
        }
    };
    let mut authority = builder.authority();
    if denied && let Some((zone, soa)) = soa() {
        // Where there is no room for it, it is not worth another question over TCP.
        let _ = authority.push((zone, TTL, soa));
    }
    let mut additional = authority.additional();
    additional.clear_push_limit();
    if opt.is_some() {
        let _ = additional.opt(|opt| {
            opt.set_udp_payload_size(u16::try_from(UDP).unwrap_or(u16::MAX));
            Ok(())
        });
    }
    done(additional)
}

fn begin(message: &Message<&[u8]>, rcode: Rcode) -> AnswerBuilder<Target> {
    let builder = MessageBuilder::from_target(StaticCompressor::new(StreamTarget::new_vec()));
    builder.expect("a vector takes whatever is appended").start_error(message, rcode)
}

fn done(builder: AdditionalBuilder<Target>) -> Vec<u8> {
    builder.finish().into_target().as_dgram_slice().to_vec()
}

/// An answer that says only why there is none.
pub(super) fn refuse(message: &Message<&[u8]>, rcode: Rcode) -> Vec<u8> {
    done(begin(message, rcode).additional())
}

fn bad_version(message: &Message<&[u8]>) -> Vec<u8> {
    let mut builder = begin(message, Rcode::NOERROR).additional();
    let _ = builder.opt(|opt| {
        opt.set_rcode(OptRcode::BADVERS);
        Ok(())
    });
    done(builder)
}

/// A question to others.
pub(super) fn question(target: &Name<Bytes>, kind: Rtype, id: u16) -> Option<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_rd(true);
    builder.header_mut().set_id(id);
    let mut builder = builder.question();
    builder.push((target, kind)).ok()?;
    Some(builder.finish())
}

/// Whether `answer` answers `asked`: the same number and the same question.
pub(super) fn answers(answer: &[u8], asked: &[u8]) -> bool {
    match (Message::from_octets(answer), Message::from_octets(asked)) {
        (Ok(answer), Ok(asked)) => answer.is_answer(&asked),
        _ => false,
    }
}

/// Whether an answer was cut short.
pub(super) fn truncated(answer: &[u8]) -> bool {
    Message::from_octets(answer).is_ok_and(|answer| answer.header().tc())
}

/// An answer that says that nobody could be asked.
pub(super) fn failure(bytes: &[u8]) -> Vec<u8> {
    Message::from_octets(bytes).map(|message| refuse(&message, Rcode::SERVFAIL)).unwrap_or_default()
}
