//! Which Service has which ClusterIP and node port.
//!
//! Invariants: an address has one owner at a time, whatever races; what was reserved for a write that failed is given
//! back; what a Service no longer uses is free after the write that let it go. What is in use is known from the stored
//! Services at start and from the writes since.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use parking_lot::Mutex;
use rules::field::FieldError;
use serde_json::{Value, json};

/// The addresses of one server.
pub(crate) struct Addresses {
    first: u32,
    count: u32,
    ports: (u16, u16),
    taken: Mutex<Taken>,
}

/// Who has an address.
struct Holder {
    owner: String,
    /// Reserved for a write that is under way: not in the store yet, and not free either.
    pending: bool,
}

impl Holder {
    fn pending(owner: &str) -> Self {
        Self { owner: owner.to_owned(), pending: true }
    }

    fn settled(owner: &str) -> Self {
        Self { owner: owner.to_owned(), pending: false }
    }
}

#[derive(Default)]
struct Taken {
    ips: HashMap<u32, Holder>,
    ports: HashMap<(u16, String), Holder>,
    next_ip: u32,
    next_port: u16,
}

/// Addresses reserved for a write that is under way; dropped, they are free again.
pub(crate) struct Reservation {
    addresses: Arc<Addresses>,
    owner: String,
    ips: Vec<u32>,
    ports: Vec<(u16, String)>,
}

impl Reservation {
    /// The write was done; [`Addresses::settle`] follows it.
    pub(crate) fn keep(mut self) {
        let mut taken = self.addresses.taken.lock();
        for ip in std::mem::take(&mut self.ips) {
            taken.ips.entry(ip).and_modify(|holder| holder.pending = false);
        }
        for port in std::mem::take(&mut self.ports) {
            taken.ports.entry(port).and_modify(|holder| holder.pending = false);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.addresses.taken.lock();
        for ip in &self.ips {
            taken.ips.remove(ip);
        }
        for port in &self.ports {
            taken.ports.remove(port);
        }
    }
}

impl Addresses {
    /// All addresses of a network but its own and the last (broadcast).
    pub(crate) fn new(network: (Ipv4Addr, u8), ports: (u16, u16)) -> Result<Self, String> {
        let (address, prefix) = network;
        if !(8..=30).contains(&prefix) {
            return Err(format!("a prefix length of {prefix} is not between 8 and 30"));
        }
        if ports.0 == 0 || ports.0 > ports.1 {
            return Err(format!("the port range {}-{} is empty", ports.0, ports.1));
        }
        let size = 1u32 << (32 - prefix);
        let base = u32::from(address) & !(size - 1);
        Ok(Self { first: base + 1, count: size - 2, ports, taken: Mutex::default() })
    }

    /// The address of the Service `default/kubernetes`.
    pub(crate) fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first)
    }

    /// Gives a Service what it needs and writes it into `service`. `owner` is its key.
    pub(crate) fn assign(self: &Arc<Self>, owner: &str, service: &mut Value) -> Result<Reservation, Vec<FieldError>> {
        let mut reservation =
            Reservation { addresses: self.clone(), owner: owner.to_owned(), ips: Vec::new(), ports: Vec::new() };
        let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        if kind == "ExternalName" {
            return Ok(reservation);
        }
        let mut taken = self.taken.lock();
        let result = self
            .assign_ip(&mut taken, &mut reservation, service)
            .and_then(|()| self.assign_ports(&mut taken, &mut reservation, service, &kind));
        drop(taken);
        result.map(|()| reservation).map_err(|error| vec![error])
    }

    fn assign_ip(&self, taken: &mut Taken, mine: &mut Reservation, service: &mut Value) -> Result<(), FieldError> {
        let spec = &mut service["spec"];
        let wanted =
            spec["clusterIP"].as_str().or_else(|| spec["clusterIPs"][0].as_str()).unwrap_or_default().to_owned();
        if wanted == "None" {
            spec["clusterIP"] = "None".into();
            spec["clusterIPs"] = json!(["None"]);
            families(spec);
            return Ok(());
        }
        let path = "spec.clusterIPs[0]";
        let ip = if wanted.is_empty() {
            let fail = || FieldError::invalid(path, "", "failed to allocate a serviceIP: range is full");
            self.free_ip(taken).ok_or_else(fail)?
        } else {
            let ip: Ipv4Addr = wanted
                .parse()
                .map_err(|_| FieldError::invalid(path, wanted.as_str(), "must be a valid IPv4 address, or \"None\""))?;
            let ip = u32::from(ip);
            if ip < self.first || ip - self.first >= self.count {
                let why = format!(
                    "failed to allocate IP {wanted}: the provided IP is not in the valid range {}-{}",
                    Ipv4Addr::from(self.first),
                    Ipv4Addr::from(self.first + self.count - 1)
                );
                return Err(FieldError::invalid(path, wanted.as_str(), why));
            }
            ip
        };
        match taken.ips.get(&ip) {
            Some(holder) if holder.owner == mine.owner => {}
            Some(_) => {
                let why = format!("failed to allocate IP {wanted}: provided IP is already allocated");
                return Err(FieldError::invalid(path, wanted.as_str(), why));
            }
            None => {
                taken.ips.insert(ip, Holder::pending(&mine.owner));
                mine.ips.push(ip);
            }
        }
        let text = Ipv4Addr::from(ip).to_string();
        spec["clusterIP"] = text.as_str().into();
        spec["clusterIPs"] = json!([text]);
        families(spec);
        Ok(())
    }

    fn free_ip(&self, taken: &mut Taken) -> Option<u32> {
        // The search goes on after the last one given, so that an address just let go is not used again at once.
        // The first address is not given to a Service that has not asked for it.
        let start = taken.next_ip.max(1);
        let offset = (0..self.count)
            .map(|step| (start + step) % self.count)
            .find(|offset| *offset != 0 && !taken.ips.contains_key(&(self.first + offset)))?;
        taken.next_ip = offset + 1;
        Some(self.first + offset)
    }

    fn assign_ports(
        &self,
        taken: &mut Taken,
        mine: &mut Reservation,
        service: &mut Value,
        kind: &str,
    ) -> Result<(), FieldError> {
        let wants = match kind {
            "NodePort" => true,
            "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
            _ => false,
        };
        let Some(ports) = service["spec"]["ports"].as_array_mut() else { return Ok(()) };
        for (index, port) in ports.iter_mut().enumerate() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let given = port["nodePort"].as_u64().unwrap_or(0);
            let path = format!("spec.ports[{index}].nodePort");
            let number = match u16::try_from(given) {
                Ok(0) if wants => self.free_port(taken, &protocol).ok_or_else(|| {
                    FieldError::invalid(path.as_str(), 0, "failed to allocate a nodePort: range is full")
                })?,
                Ok(0) => continue,
                Ok(number) if (self.ports.0..=self.ports.1).contains(&number) => number,
                _ => {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        self.ports.0, self.ports.1
                    );
                    return Err(FieldError::invalid(path, given, why));
                }
            };
            let key = (number, protocol);
            match taken.ports.get(&key) {
                Some(holder) if holder.owner == mine.owner => {}
                Some(_) => return Err(FieldError::invalid(path, given, "provided port is already allocated")),
                None => {
                    taken.ports.insert(key.clone(), Holder::pending(&mine.owner));
                    mine.ports.push(key);
                }
            }
            port["nodePort"] = number.into();
        }
        Ok(())
    }

    fn free_port(&self, taken: &mut Taken, protocol: &str) -> Option<u16> {
        let count = self.ports.1 - self.ports.0 + 1;
        let start = taken.next_port;
        let offset = (0..count)
            .map(|step| (start + step) % count)
            .find(|offset| !taken.ports.contains_key(&(self.ports.0 + offset, protocol.to_owned())))?;
        taken.next_port = (offset + 1) % count;
        Some(self.ports.0 + offset)
    }

    /// Makes what `owner` holds equal to what its Service uses; `read` gives the stored Service (`None`: it is gone). It
    /// is read under the lock, so that of two writes in a row the later one counts, whoever comes here first.
    pub(crate) fn settle(&self, owner: &str, read: impl FnOnce() -> Option<Value>) {
        let mut taken = self.taken.lock();
        let (ips, ports) = read().as_ref().map(used).unwrap_or_default();
        taken.ips.retain(|ip, holder| holder.owner != owner || holder.pending || ips.contains(ip));
        taken.ports.retain(|port, holder| holder.owner != owner || holder.pending || ports.contains(port));
        for ip in ips {
            taken.ips.entry(ip).or_insert_with(|| Holder::settled(owner));
        }
        for port in ports {
            taken.ports.entry(port).or_insert_with(|| Holder::settled(owner));
        }
    }
}

/// What a Service uses.
/// The address families, where nothing is said of them. What has neither address nor selector may have endpoints of both.
fn families(spec: &mut Value) {
    let any = spec["clusterIP"] == "None" && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let (families, policy) =
        if any { (json!(["IPv4", "IPv6"]), "RequireDualStack") } else { (json!(["IPv4"]), "SingleStack") };
    for (field, value) in [("ipFamilies", families), ("ipFamilyPolicy", json!(policy))] {
        if spec[field].is_null() {
            spec[field] = value;
        }
    }
}

fn used(service: &Value) -> (Vec<u32>, Vec<(u16, String)>) {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return Default::default();
    }
    let ips =
        spec["clusterIP"].as_str().and_then(|ip| ip.parse::<Ipv4Addr>().ok()).map(u32::from).into_iter().collect();
    let ports = spec["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let number =
            port["nodePort"].as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)?;
        Some((number, port["protocol"].as_str().unwrap_or("TCP").to_owned()))
    });
    (ips, ports.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(prefix: u8) -> Arc<Addresses> {
        Arc::new(Addresses::new((Ipv4Addr::new(127, 96, 0, 0), prefix), (30000, 30001)).expect("addresses"))
    }

    fn assign(addresses: &Arc<Addresses>, owner: &str, spec: Value) -> Result<Value, String> {
        let mut service = json!({ "spec": spec });
        let reservation = addresses.assign(owner, &mut service).map_err(|errors| errors[0].to_string())?;
        reservation.keep();
        addresses.settle(owner, || Some(service.clone()));
        Ok(service["spec"].take())
    }

    #[test]
    fn addresses_are_given_kept_and_let_go() {
        let all = addresses(29);
        assert_eq!(all.first(), Ipv4Addr::new(127, 96, 0, 1));
        let first = assign(&all, "a", json!({})).expect("an address");
        assert_eq!(first["clusterIP"], "127.96.0.2");
        assert_eq!(first["clusterIPs"], json!(["127.96.0.2"]));
        assert_eq!(assign(&all, "a", first.clone()).expect("the same again")["clusterIP"], "127.96.0.2");
        assert!(
            assign(&all, "b", json!({ "clusterIP": "127.96.0.2" }))
                .is_err_and(|error| error.contains("already allocated"))
        );
        assert!(
            assign(&all, "b", json!({ "clusterIP": "10.0.0.1" })).is_err_and(|error| error.contains("valid range"))
        );
        assert!(assign(&all, "b", json!({ "clusterIP": "x" })).is_err_and(|error| error.contains("valid IPv4")));
        assert_eq!(assign(&all, "b", json!({ "clusterIP": "None" })).expect("headless")["clusterIPs"], json!(["None"]));
        for name in ["c", "d", "e", "f"] {
            assert!(assign(&all, name, json!({})).is_ok(), "{name}");
        }
        assert!(assign(&all, "g", json!({})).is_err_and(|error| error.contains("range is full")));
        all.settle("c", || None);
        assert_eq!(assign(&all, "g", json!({})).expect("c's")["clusterIP"], "127.96.0.3");
        assert!(assign(&all, "k", json!({ "clusterIP": "127.96.0.1" })).is_ok(), "the first is for who asks for it");
    }

    #[test]
    fn a_write_that_failed_gives_its_addresses_back() {
        let all = addresses(30);
        let mut service = json!({ "spec": {} });
        let reservation = all.assign("a", &mut service).expect("an address");
        assert!(assign(&all, "b", json!({})).is_err());
        drop(reservation);
        assert!(assign(&all, "b", json!({})).is_ok());
    }

    #[test]
    fn what_is_reserved_for_a_write_under_way_is_not_let_go_by_another() {
        let all = addresses(24);
        let mut service = json!({ "spec": {} });
        let reservation = all.assign("a", &mut service).expect("an address");
        all.settle("a", || None);
        let wanted = json!({ "clusterIP": service["spec"]["clusterIP"] });
        assert!(assign(&all, "b", wanted.clone()).is_err());
        reservation.keep();
        all.settle("a", || None);
        assert!(assign(&all, "b", wanted).is_ok());
    }

    #[test]
    fn node_ports() {
        let all = addresses(24);
        let ports = |protocol: &str| json!([{ "port": 1, "protocol": protocol }]);
        let tcp = json!({ "type": "NodePort", "ports": ports("TCP") });
        assert_eq!(assign(&all, "a", tcp.clone()).expect("a port")["ports"][0]["nodePort"], 30000);
        let udp = json!({ "type": "NodePort", "ports": [{ "port": 1, "protocol": "UDP", "nodePort": 30000 }] });
        assert!(assign(&all, "b", udp).is_ok(), "protocols don't share");
        assert_eq!(assign(&all, "c", tcp.clone()).expect("a port")["ports"][0]["nodePort"], 30001);
        assert!(assign(&all, "d", tcp).is_err_and(|error| error.contains("range is full")));
        let outside = json!({ "type": "NodePort", "ports": [{ "port": 1, "nodePort": 80 }] });
        assert!(assign(&all, "d", outside).is_err_and(|error| error.contains("30000-30001")));
    }
}
