//! The nft rules, as text. No I/O here.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use portolan_model::WorkloadKey;

/// The virtual IPs that services have by default.
pub const VIRTUAL_IPS: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(240, 241, 0, 0), 16));

const DNS_PORT: u16 = 53;

/// Whose connections are redirected to a sidecar, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The workload, which names the table: several sidecars may share a host.
    pub workload: WorkloadKey,
    /// Whose connections.
    pub who: Who,
    /// Which destinations.
    pub to: Where,
    /// The sidecar's capture listener.
    pub capture: SocketAddr,
    /// The sidecar's DNS server, if the app's DNS questions should go there.
    pub dns: Option<SocketAddr>,
    /// The app's ports that others shall reach only through the sidecar, and its inbound listener.
    /// A plain connection to them then fails, since the listener wants mutual TLS.
    pub inbound: Option<(Vec<u16>, SocketAddr)>,
}

/// Whose connections are redirected. Never the sidecar's own: they would come back for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Those of the app's user.
    User(u32),
    /// Those of the app's control group, below `/sys/fs/cgroup`.
    Cgroup(CgroupPath),
    /// Everybody's but the sidecar's user's.
    EverybodyBut(u32),
}

/// Which destinations are redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// These alone, such as [`VIRTUAL_IPS`].
    Only(Vec<IpNet>),
    /// Everything but these, and but this host.
    EverythingBut(Vec<IpNet>),
}

/// A control group's path, relative to `/sys/fs/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPath(String);

/// Why a text is no [`CgroupPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no control group: write its path below /sys/fs/cgroup, such as `system.slice/app.service`"
)]
pub struct CgroupPathError(String);

impl CgroupPath {
    /// Reads a path.
    ///
    /// # Errors
    /// When it is empty, absolute, or holds characters that no control group's name has.
    pub fn parse(text: &str) -> Result<Self, CgroupPathError> {
        let plain =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b':');
        let segment = |part: &str| !part.is_empty() && part != ".." && part.bytes().all(plain);
        if text.split('/').all(segment) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CgroupPathError(text.to_owned()))
        }
    }

    fn depth(&self) -> usize {
        self.0.split('/').count()
    }
}

impl Rules {
    /// The script that sets the rules, in place of those that were set before. For `nft -f -`.
    #[must_use]
    pub fn ruleset(&self) -> String {
        let mut text = self.removal();
        // Writing to a String cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    /// The script that removes the rules, whether or not they are set.
    #[must_use]
    pub fn removal(&self) -> String {
        let table = self.table();
        format!("add table inet {table}\ndelete table inet {table}\n")
    }

    /// Names hold only what nft's identifiers may.
    fn table(&self) -> String {
        format!(
            "portolan-{}-{}",
            self.workload.namespace, self.workload.name
        )
    }

    fn write_table(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "table inet {} {{", self.table())?;
        writeln!(text, "  chain outbound {{")?;
        writeln!(
            text,
            "    type nat hook output priority -100; policy accept;"
        )?;
        let who = self.who.matches();
        if let Some(dns) = self.dns {
            for transport in ["udp", "tcp"] {
                let what = format!("{transport} dport {DNS_PORT}");
                writeln!(text, "    {who} {what} {}", redirect(dns))?;
            }
        }
        self.write_destinations(text, &who)?;
        writeln!(text, "  }}")?;
        if let Some((ports, inbound)) = &self.inbound {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            let ports = ports.join(", ");
            writeln!(text, "  chain inbound {{")?;
            writeln!(
                text,
                "    type nat hook prerouting priority -100; policy accept;"
            )?;
            writeln!(text, "    tcp dport {{ {ports} }} {}", redirect(*inbound))?;
            writeln!(text, "  }}")?;
        }
        writeln!(text, "}}")
    }

    fn write_destinations(&self, text: &mut String, who: &str) -> fmt::Result {
        let to = redirect(self.capture);
        // Redirecting changes the address, not the family.
        let same_family = |net: &&IpNet| net.addr().is_ipv4() == self.capture.is_ipv4();
        match &self.to {
            Where::Only(nets) => {
                for net in nets.iter().filter(same_family) {
                    writeln!(
                        text,
                        "    {who} {} daddr {net} meta l4proto tcp {to}",
                        family(net.addr())
                    )?;
                }
            }
            Where::EverythingBut(nets) => {
                writeln!(text, "    oifname \"lo\" return")?;
                for net in nets.iter().filter(same_family) {
                    writeln!(text, "    {} daddr {net} return", family(net.addr()))?;
                }
                let version = if self.capture.is_ipv4() {
                    "ipv4"
                } else {
                    "ipv6"
                };
                writeln!(
                    text,
                    "    {who} meta nfproto {version} meta l4proto tcp {to}"
                )?;
            }
        }
        Ok(())
    }
}

impl Who {
    fn matches(&self) -> String {
        match self {
            Self::User(uid) => format!("meta skuid {uid}"),
            Self::Cgroup(path) => format!("socket cgroupv2 level {} \"{}\"", path.depth(), path.0),
            Self::EverybodyBut(uid) => format!("meta skuid != {uid}"),
        }
    }
}

fn redirect(to: SocketAddr) -> String {
    match to.ip() {
        ip if ip.is_unspecified() => format!("redirect to :{}", to.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => format!("dnat {} to {to}", family(to.ip())),
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ip" } else { "ip6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            workload: "shop/orders-1".parse().unwrap(),
            who: Who::User(1000),
            to: Where::Only(vec![VIRTUAL_IPS, "fd24:f100::/64".parse().unwrap()]),
            capture: "127.0.0.1:15006".parse().unwrap(),
            dns: None,
            inbound: None,
        }
    }

    #[test]
    fn by_default_only_virtual_addresses_are_redirected() {
        let expected = "\
add table inet portolan-shop-orders-1
delete table inet portolan-shop-orders-1
table inet portolan-shop-orders-1 {
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta skuid 1000 ip daddr 240.241.0.0/16 meta l4proto tcp dnat ip to 127.0.0.1:15006
  }
}
";
        assert_eq!(rules().ruleset(), expected);
    }

    #[test]
    fn everything_can_be_redirected_with_dns_and_inbound() {
        let full = Rules {
            who: Who::EverybodyBut(1337),
            to: Where::EverythingBut(vec!["10.0.0.0/8".parse().unwrap()]),
            capture: "0.0.0.0:15006".parse().unwrap(),
            dns: Some("127.0.0.1:15053".parse().unwrap()),
            inbound: Some((vec![8080, 9090], "0.0.0.0:15008".parse().unwrap())),
            ..rules()
        };
        let expected = "\
add table inet portolan-shop-orders-1
delete table inet portolan-shop-orders-1
table inet portolan-shop-orders-1 {
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta skuid != 1337 udp dport 53 dnat ip to 127.0.0.1:15053
    meta skuid != 1337 tcp dport 53 dnat ip to 127.0.0.1:15053
    oifname \"lo\" return
    ip daddr 10.0.0.0/8 return
    meta skuid != 1337 meta nfproto ipv4 meta l4proto tcp redirect to :15006
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    tcp dport { 8080, 9090 } redirect to :15008
  }
}
";
        assert_eq!(full.ruleset(), expected);
    }

    #[test]
    fn a_control_group_is_matched_at_its_depth() {
        let path = CgroupPath::parse("system.slice/app@1.service").unwrap();
        let by_group = Rules {
            who: Who::Cgroup(path),
            capture: "[::1]:15006".parse().unwrap(),
            ..rules()
        };
        let line = "    socket cgroupv2 level 2 \"system.slice/app@1.service\" \
                    ip6 daddr fd24:f100::/64 meta l4proto tcp dnat ip6 to [::1]:15006\n";
        assert!(by_group.ruleset().contains(line), "{}", by_group.ruleset());
    }

    #[test]
    fn paths_cannot_leave_their_quotes() {
        for bad in ["", "/a", "a/", "a//b", "a\" accept", "a\nb", "../x", "a b"] {
            assert!(CgroupPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn removal_names_the_same_table() {
        let removal = rules().removal();
        assert!(rules().ruleset().starts_with(&removal));
        assert!(removal.contains("delete table inet portolan-shop-orders-1"));
    }
}
