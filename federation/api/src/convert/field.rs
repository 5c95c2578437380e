//! Reading single fields strictly.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use portolan_model::cluster::Locality;
use portolan_model::declared::ExportTo;
use portolan_model::sharing::LocalityHealth;
use portolan_model::{Port, Protocol, ServiceKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Invalid, PEERS_MAX, RULES_BYTES_MAX};
use crate::resources;

/// How much of a malformed text an error repeats, in bytes.
const QUOTE_MAX: usize = 100;

/// Reads a name or identity.
pub(super) fn name<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, Invalid> {
    text.parse()
        .map_err(|error: T::Err| Invalid::new(field, error.to_string()))
}

/// Reads a name where empty means none.
pub(super) fn optional_name<T: FromStr<Err: Display>>(
    field: &str,
    text: &str,
) -> Result<Option<T>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    name(field, text).map(Some)
}

pub(super) fn ip(field: &str, text: &str) -> Result<IpAddr, Invalid> {
    text.parse()
        .map_err(|_| Invalid::new(field, format!("`{}` is not an IP address", quote(text))))
}

pub(super) fn socket(field: &str, text: &str) -> Result<SocketAddr, Invalid> {
    text.parse()
        .map_err(|_| Invalid::new(field, format!("`{}` is not an ip:port", quote(text))))
}

pub(super) fn port_number(field: &str, number: u32) -> Result<u16, Invalid> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Invalid::new(
            field,
            format!("{number} is not a port; use 1 to 65535"),
        )),
    }
}

pub(super) fn required<T>(field: &str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

/// Reads rules that travel as JSON of the model's own types; nothing of them for no bytes.
pub(super) fn rules<T: DeserializeOwned + Default>(
    field: &str,
    bytes: &[u8],
) -> Result<T, Invalid> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    at_most(field, bytes.len(), RULES_BYTES_MAX)?;
    serde_json::from_slice(bytes).map_err(|error| Invalid::new(field, error.to_string()))
}

/// Writes rules; no bytes where nothing is declared.
pub(super) fn rules_bytes<T: Serialize + Default + PartialEq>(rules: &T) -> Vec<u8> {
    if *rules == T::default() {
        return Vec::new();
    }
    // Maps with keys that are no texts cannot be written; the model's rules have none.
    serde_json::to_vec(rules).unwrap_or_default()
}

/// Refuses more than `max` of something.
pub(super) fn at_most(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    if count > max {
        return Err(Invalid::new(
            field,
            format!("{count} items; at most {max} are accepted"),
        ));
    }
    Ok(())
}

/// Reads a list of messages; errors name the item.
pub(super) fn messages<P, T>(
    field: &str,
    items: Vec<P>,
    max: usize,
    read: impl Fn(P) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    at_most(field, items.len(), max)?;
    let numbered = items.into_iter().enumerate();
    numbered
        .map(|(at, item)| read(item).map_err(|error| error.within(&format!("{field}[{at}]"))))
        .collect()
}

/// Reads a list of texts; errors name the item.
pub(super) fn texts<T, C: FromIterator<T>>(
    field: &str,
    items: &[String],
    max: usize,
    read: impl Fn(&str, &str) -> Result<T, Invalid>,
) -> Result<C, Invalid> {
    at_most(field, items.len(), max)?;
    let numbered = items.iter().enumerate();
    numbered
        .map(|(at, item)| read(&format!("{field}[{at}]"), item))
        .collect()
}

pub(super) fn protocol(field: &str, number: i32) -> Result<Protocol, Invalid> {
    match resources::Protocol::try_from(number) {
        Ok(resources::Protocol::Http) => Ok(Protocol::Http),
        Ok(resources::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(resources::Protocol::Grpc) => Ok(Protocol::Grpc),
        Ok(resources::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(resources::Protocol::Tls) => Ok(Protocol::Tls),
        Ok(resources::Protocol::Udp) => Ok(Protocol::Udp),
        Ok(resources::Protocol::Sctp) => Ok(Protocol::Sctp),
        Ok(resources::Protocol::Unspecified) | Err(_) => {
            Err(Invalid::new(field, format!("{number} is no protocol")))
        }
    }
}

pub(super) fn protocol_number(protocol: Protocol) -> i32 {
    let protocol = match protocol {
        Protocol::Http => resources::Protocol::Http,
        Protocol::Http2 => resources::Protocol::Http2,
        Protocol::Grpc => resources::Protocol::Grpc,
        Protocol::Tcp => resources::Protocol::Tcp,
        Protocol::Tls => resources::Protocol::Tls,
        Protocol::Udp => resources::Protocol::Udp,
        Protocol::Sctp => resources::Protocol::Sctp,
    };
    protocol.into()
}

pub(super) fn kind(field: &str, number: i32) -> Result<ServiceKind, Invalid> {
    match resources::ServiceKind::try_from(number) {
        Ok(resources::ServiceKind::Virtual) => Ok(ServiceKind::Virtual),
        Ok(resources::ServiceKind::Headless) => Ok(ServiceKind::Headless),
        Ok(resources::ServiceKind::Unspecified) | Err(_) => {
            Err(Invalid::new(field, format!("{number} is no service kind")))
        }
    }
}

pub(super) fn kind_number(kind: ServiceKind) -> i32 {
    let kind = match kind {
        ServiceKind::Virtual => resources::ServiceKind::Virtual,
        ServiceKind::Headless => resources::ServiceKind::Headless,
    };
    kind.into()
}

pub(super) fn port(port: resources::Port) -> Result<Port, Invalid> {
    Ok(Port {
        name: optional_name("name", &port.name)?,
        number: port_number("number", port.number)?,
        protocol: protocol("protocol", port.protocol)?,
    })
}

pub(super) fn port_message(port: &Port) -> resources::Port {
    resources::Port {
        name: text_or_empty(port.name.as_ref()),
        number: port.number.into(),
        protocol: protocol_number(port.protocol),
    }
}

pub(super) fn locality(
    field: &str,
    place: Option<resources::Locality>,
) -> Result<Locality, Invalid> {
    let place = required(field, place)?;
    let read = || {
        Ok(Locality {
            region: name("region", &place.region)?,
            zone: optional_name("zone", &place.zone)?,
        })
    };
    read().map_err(|error: Invalid| error.within(field))
}

pub(super) fn locality_message(place: &Locality) -> resources::Locality {
    resources::Locality {
        region: place.region.to_string(),
        zone: text_or_empty(place.zone.as_ref()),
    }
}

pub(super) fn locality_health(
    health: resources::LocalityHealth,
) -> Result<LocalityHealth, Invalid> {
    if health.ready > health.total {
        return Err(Invalid::new("ready", "is more than `total`"));
    }
    Ok(LocalityHealth {
        locality: locality("locality", health.locality)?,
        ready: health.ready,
        total: health.total,
    })
}

pub(super) fn locality_health_message(health: &LocalityHealth) -> resources::LocalityHealth {
    resources::LocalityHealth {
        locality: Some(locality_message(&health.locality)),
        ready: health.ready,
        total: health.total,
    }
}

/// Reads to whom something is exported; absent means nobody.
pub(super) fn export_to(field: &str, to: Option<resources::ExportTo>) -> Result<ExportTo, Invalid> {
    let to = to.unwrap_or_default();
    match (to.everyone, to.peers.is_empty()) {
        (true, true) => Ok(ExportTo::Everyone),
        (true, false) => Err(Invalid::new(field, "names both everyone and single peers")),
        (false, true) => Ok(ExportTo::Nobody),
        (false, false) => {
            let field = format!("{field}.peers");
            Ok(ExportTo::Peers(texts(&field, &to.peers, PEERS_MAX, name)?))
        }
    }
}

pub(super) fn export_to_message(to: &ExportTo) -> resources::ExportTo {
    let (everyone, peers) = match to {
        ExportTo::Nobody => (false, vec![]),
        ExportTo::Everyone => (true, vec![]),
        ExportTo::Peers(peers) => (false, strings(peers)),
    };
    resources::ExportTo { everyone, peers }
}

pub(super) fn strings<T: Display>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

pub(super) fn text_or_empty<T: Display>(item: Option<&T>) -> String {
    item.map(ToString::to_string).unwrap_or_default()
}

fn quote(text: &str) -> &str {
    &text[..text.floor_char_boundary(QUOTE_MAX)]
}
