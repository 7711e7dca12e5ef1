//! What a client asks of a Pod's streams, over which protocol, and in which words it is told how a session ended. Pure.

use http::HeaderMap;
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use serde_json::{Value, json};

use crate::object;
use crate::query::Query;
use crate::sessions::SessionOptions;
use crate::status::{Answer, Failure};

/// Which container is meant where a client does not say, as kubectl has it.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The version of channels that can say that input has ended.
const V5: &str = "v5.channel.k8s.io";
/// The version before it, over WebSocket and SPDY.
pub(super) const V4: &str = "v4.channel.k8s.io";
/// Port forwarding over SPDY.
pub(super) const FORWARD: &str = "portforward.k8s.io";
/// SPDY with port forwarding inside of WebSocket messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// The header in which the version is agreed on over SPDY.
pub(super) const VERSION: &str = "x-stream-protocol-version";
/// The name of SPDY in an upgrade.
pub(super) const SPDY: &str = "SPDY/3.1";

/// How many ports one WebSocket may have: each takes two of its channels.
const MOST: usize = 127;

/// What a connection is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Input and output of a program.
    Session,
    /// Ports of a Pod.
    Ports,
}

/// The protocol that client and server agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// WebSocket; `name` is the subprotocol, `key` what the client's key is answered with.
    WebSocket { name: &'static str, key: String },
    /// SPDY; `name` is the version of the streams in it.
    Spdy { name: &'static str },
}

impl Protocol {
    /// Whether what is carried has channels of its own, rather than another protocol.
    pub(super) fn has_channels(&self) -> bool {
        matches!(self, Self::WebSocket { name, .. } if *name != TUNNEL)
    }

    /// Whether the client can say that its input has ended.
    pub(super) fn closes(&self) -> bool {
        matches!(self, Self::WebSocket { name, .. } if *name == V5)
    }
}

/// The values of a header that lists words, in order.
fn words<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The protocol that is spoken from now on.
pub(super) fn protocol(kind: Kind, headers: &HeaderMap) -> Answer<Protocol> {
    let upgrades = words(headers, CONNECTION.as_str()).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let asked = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !upgrades || asked.is_empty() {
        return Err(Failure::bad_request(format!(
            "Upgrade request required: this is a stream over WebSocket or {SPDY}; something on the way may have taken the \
             headers Connection and Upgrade away"
        )));
    }
    if asked.eq_ignore_ascii_case("websocket") {
        return web_socket(kind, headers);
    }
    if !asked.eq_ignore_ascii_case(SPDY) {
        return Err(Failure::bad_request(format!("unable to upgrade to {asked:?}: there are websocket and {SPDY}")));
    }
    let name = match kind {
        Kind::Session => V4,
        Kind::Ports => FORWARD,
    };
    let offered: Vec<&str> = words(headers, VERSION).collect();
    if !offered.contains(&name) {
        return Err(Failure::new(
            403,
            "Forbidden",
            format!("unable to negotiate protocol: client supports {offered:?}, server accepts [{name:?}]"),
        ));
    }
    Ok(Protocol::Spdy { name })
}

fn web_socket(kind: Kind, headers: &HeaderMap) -> Answer<Protocol> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text(SEC_WEBSOCKET_VERSION.as_str()) != "13" {
        return Err(Failure::bad_request("unable to upgrade: the version of WebSocket is 13"));
    }
    let key = text(SEC_WEBSOCKET_KEY.as_str());
    if key.is_empty() {
        return Err(Failure::bad_request("unable to upgrade: there is no Sec-WebSocket-Key"));
    }
    let ours: &[&str] = match kind {
        Kind::Session => &[V5, V4],
        Kind::Ports => &[TUNNEL, V4],
    };
    let offered: Vec<&str> = words(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).collect();
    let Some(name) = ours.iter().find(|name| offered.contains(name)) else {
        let why = format!("unable to negotiate protocol: client supports {offered:?}, server accepts {ours:?}");
        return Err(Failure::bad_request(why));
    };
    Ok(Protocol::WebSocket { name, key: key.to_owned() })
}

/// What is asked of a container; `runs` says that a command is to be run beside its program.
pub(super) fn options(query: &Query, pod: &Value, runs: bool) -> Answer<SessionOptions> {
    let tty = query.flag("tty");
    let options = SessionOptions {
        container: container(pod, query.get("container"))?,
        command: runs.then(|| query.all("command").map(str::to_owned).collect()),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !tty,
        tty,
    };
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if options.command.as_ref().is_some_and(|command| command.iter().all(String::is_empty)) {
        return Err(Failure::bad_request("you must specify at least one command for the container"));
    }
    Ok(options)
}

/// The ports that are asked for in the request; there are none where streams say them.
pub(super) fn ports(query: &Query) -> Answer<Vec<u16>> {
    let port = |word: &str| word.parse::<u16>().ok().filter(|port| *port > 0);
    let words = query.all("ports").flat_map(|list| list.split(',')).map(str::trim);
    let ports =
        words.map(|word| port(word).ok_or_else(|| Failure::bad_request(format!("{word:?} is no port, in `ports`"))));
    let ports = ports.collect::<Answer<Vec<u16>>>()?;
    if ports.len() > MOST {
        return Err(Failure::bad_request(format!("more than {MOST} ports at once")));
    }
    Ok(ports)
}

fn container(pod: &Value, asked: Option<&str>) -> Answer<String> {
    let names = |field: &str| -> Vec<&str> {
        pod["spec"][field].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let default = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().filter(|name| containers.contains(name));
    let pod = object::name(pod);
    match (asked, default, containers.as_slice()) {
        (Some(asked), ..) if containers.contains(&asked) || init.contains(&asked) => Ok(asked.to_owned()),
        (Some(asked), ..) => Err(Failure::bad_request(format!("container {asked} is not valid for pod {pod}"))),
        (None, Some(one), _) | (None, None, &[one]) => Ok(one.to_owned()),
        (None, None, _) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {pod}, choose one of: [{}]",
            containers.join(" ")
        ))),
    }
}

/// How a session ended, as clients want to be told.
pub(super) fn outcome(ended: &Result<i32, String>) -> Value {
    match ended {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(why) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {why}"),
            "details": { "causes": [{ "message": why }] },
        }),
    }
}

/// The sizes of a client's terminal, from a stream of JSON objects of which none is within another.
#[derive(Debug, Default)]
pub(super) struct Sizes(Vec<u8>);

/// What is no size after so many bytes will be none.
const SIZE: usize = 1024;

impl Sizes {
    /// Takes in what arrived; gives the last size that is whole, in columns and rows.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<(u16, u16)> {
        self.0.extend_from_slice(bytes);
        let end = self.0.iter().rposition(|byte| *byte == b'}').map_or(0, |at| at + 1);
        let begin = self.0[..end].iter().rposition(|byte| *byte == b'{').unwrap_or(0);
        let size: Option<Value> = serde_json::from_slice(&self.0[begin..end]).ok();
        self.0.drain(..end);
        if self.0.len() > SIZE {
            self.0.clear();
        }
        let size = size?;
        let side = |name: &str| size[name].as_u64().and_then(|side| u16::try_from(side).ok()).filter(|side| *side > 0);
        Some((side("Width")?, side("Height")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_newest_protocol_that_both_know() {
        let socket = |offered| {
            headers(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "k"),
                ("sec-websocket-protocol", offered),
            ])
        };
        let spdy = |offered| {
            headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", offered)])
        };
        let name = |kind, headers| match protocol(kind, &headers) {
            Ok(Protocol::WebSocket { name, .. } | Protocol::Spdy { name }) => Ok(name),
            Err(failure) => Err(failure.code),
        };
        for (kind, headers, expected) in [
            (Kind::Session, socket("v4.channel.k8s.io, v5.channel.k8s.io"), Ok(V5)),
            (Kind::Session, socket("v4.channel.k8s.io"), Ok(V4)),
            (Kind::Session, socket("channel.k8s.io"), Err(400)),
            (Kind::Ports, socket("SPDY/3.1+portforward.k8s.io"), Ok(TUNNEL)),
            (Kind::Ports, socket("v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io"), Ok(TUNNEL)),
            (Kind::Ports, socket("v4.channel.k8s.io"), Ok(V4)),
            (Kind::Ports, socket("v5.channel.k8s.io"), Err(400)),
            (Kind::Session, spdy("v4.channel.k8s.io, v3.channel.k8s.io"), Ok(V4)),
            (Kind::Session, spdy("v2.channel.k8s.io"), Err(403)),
            (Kind::Ports, spdy("portforward.k8s.io"), Ok(FORWARD)),
            (Kind::Ports, headers(&[("connection", "Upgrade"), ("upgrade", "h2c")]), Err(400)),
            (Kind::Session, headers(&[("upgrade", "websocket")]), Err(400)),
            (Kind::Session, headers(&[]), Err(400)),
        ] {
            assert_eq!(name(kind, headers.clone()), expected, "{headers:?}");
        }
    }

    #[test]
    fn options_of_a_session() {
        let pod = json!({ "metadata": { "name": "p" }, "spec": {
            "containers": [{ "name": "a" }, { "name": "b" }], "initContainers": [{ "name": "i" }] } });
        let mut chosen = pod.clone();
        chosen["metadata"]["annotations"][DEFAULT_CONTAINER] = "b".into();
        let ask = |query: &str, pod: &Value| options(&Query::parse(Some(query)), pod, true).map_err(|f| f.message);
        let asked =
            ask("command=ls&command=-l%20x&container=a&stdin=true&stdout=true&stderr=true", &pod).expect("good");
        assert_eq!(asked.command.as_deref(), Some(&["ls".to_owned(), "-l x".to_owned()][..]));
        assert!(asked.stdin && asked.stdout && asked.stderr && !asked.tty);
        // A terminal has one output.
        let asked = ask("command=sh&container=i&tty=true&stdout=1&stderr=1", &pod).expect("good");
        assert!(asked.tty && asked.stdout && !asked.stderr);
        assert_eq!(ask("command=sh&stdout=1", &chosen).expect("good").container, "b");
        for (query, why) in [
            ("command=sh&stdout=1", "choose one of: [a b]"),
            ("command=sh&stdout=1&container=x", "x is not valid for pod p"),
            ("command=sh&container=a", "at least 1 of stdin"),
            ("stdout=1&container=a", "at least one command"),
        ] {
            assert!(ask(query, &pod).expect_err(query).contains(why), "{query}");
        }
    }

    #[test]
    fn ports_of_a_request() {
        let many = vec!["1"; MOST + 1].join(",");
        for (query, expected) in [
            ("", Ok(vec![])),
            ("ports=80&ports=443", Ok(vec![80, 443])),
            ("ports=80,443", Ok(vec![80, 443])),
            ("ports=80,,443", Err(400)),
            ("ports=0", Err(400)),
            ("ports=65536", Err(400)),
            ("ports=", Err(400)),
            (&format!("ports={many}"), Err(400)),
        ] {
            assert_eq!(ports(&Query::parse(Some(query))).map_err(|failure| failure.code), expected, "{query}");
        }
    }

    #[test]
    fn ends_in_the_words_of_clients() {
        assert_eq!(outcome(&Ok(0))["status"], "Success");
        let failed = outcome(&Ok(3));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"], json!([{ "reason": "ExitCode", "message": "3" }]));
        assert_eq!(outcome(&Err("no".into()))["message"], "Internal error occurred: no");
    }

    #[test]
    fn sizes_in_pieces() {
        let mut sizes = Sizes::default();
        for (bytes, expected) in [
            (&br#"{"Width":80,"#[..], None),
            (br#""Height":24}"#, Some((80, 24))),
            (br#"{"Width":1,"Height":2}{"Width":3,"Height":4}"#, Some((3, 4))),
            (br#"{"Width":0,"Height":2}"#, None),
            (br#"{"Width":70000,"Height":2}"#, None),
            (&[b'x'; 3000], None),
            (br#"{"Width":5,"Height":6}"#, Some((5, 6))),
        ] {
            assert_eq!(sizes.take(bytes), expected);
        }
    }
}
