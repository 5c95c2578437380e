//! How many connections wait for the app to accept them, as the kernel tells in `/proc/net/tcp`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Listening sockets stand first; this much of the table is read at most, in bytes.
const TABLE_MAX: u64 = 64 * 1024;
/// The state of a listening socket.
const LISTEN: &str = "0A";

/// Connections that wait to be accepted on this address and port; `None` if nobody listens there in
/// this network namespace, or the kernel does not tell.
pub(crate) fn waiting(app: IpAddr, port: u16) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let found = tables.iter().filter_map(|path| {
        let table = BufReader::new(File::open(path).ok()?.take(TABLE_MAX));
        let lines = table.lines().map_while(Result::ok);
        waiting_in(lines.skip(1), app, port)
    });
    found.reduce(u32::saturating_add)
}

fn waiting_in(rows: impl Iterator<Item = String>, app: IpAddr, port: u16) -> Option<u32> {
    rows.map_while(|row| listening(&row))
        .filter(|(address, at, _)| *at == port && covers(*address, app))
        .map(|(_, _, waiting)| waiting)
        .reduce(u32::saturating_add)
}

/// The address, port and queue of a listening socket; `None` for the first one that is not listening.
fn listening(row: &str) -> Option<(IpAddr, u16, u32)> {
    let mut words = row.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let (_remote, state, queues) = (words.next()?, words.next()?, words.next()?);
    let (_sent, received) = queues.split_once(':')?;
    (state == LISTEN).then_some(())?;
    Some((
        parse_address(address)?,
        u16::from_str_radix(port, 16).ok()?,
        u32::from_str_radix(received, 16).ok()?,
    ))
}

/// Addresses are written as words of four bytes in the machine's order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let words = text.as_bytes().chunks(8);
    let mut bytes = Vec::with_capacity(16);
    for word in words {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

fn covers(listener: IpAddr, app: IpAddr) -> bool {
    listener.is_unspecified() || listener.to_canonical() == app.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    #[test]
    fn rows_are_read_until_the_first_that_does_not_listen() {
        let rows = [
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000 0 0 1 1",
            "   1: 00000000:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000 0 0 1 1",
            "   2: 0200007F:1F90 00000000:0000 0A 00000000:00000010 00:00000000 00000000 0 0 1 1",
            "   3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1",
            "   4: 0100007F:1F92 0100007F:C350 01 00000000:00000007 00:00000000 00000000 0 0 1 1",
            "   5: 0100007F:1F92 00000000:0000 0A 00000000:00000007 00:00000000 00000000 0 0 1 1",
        ];
        let waiting = |port| {
            let rows = rows.iter().map(|row| (*row).to_owned());
            waiting_in(rows, Ipv4Addr::LOCALHOST.into(), port)
        };
        assert_eq!(waiting(0x1F90), Some(5));
        assert_eq!(waiting(0x1F91), Some(0));
        assert_eq!(waiting(0x1F92), None);
        let v6 = "0000000000000000FFFF00000100007F";
        assert!(covers(
            parse_address(v6).unwrap(),
            Ipv4Addr::LOCALHOST.into()
        ));
        assert_eq!(listening("what is this"), None);
        assert_eq!(listening(" 0: XYZ:1 0:0 0A 0:0"), None);
    }

    #[test]
    fn the_kernel_tells_of_connections_that_nobody_accepts() {
        // Nobody else listens at this address when this test has ceased to.
        let [.., high, low] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 98, high, low);
        let listener = TcpListener::bind((own, 0)).unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("IPv4 was asked for");
        };
        let (ip, port) = ((*address.ip()).into(), address.port());
        assert_eq!(waiting(ip, port), Some(0));
        let _one = TcpStream::connect(address).unwrap();
        let _two = TcpStream::connect(address).unwrap();
        assert_eq!(waiting(ip, port), Some(2));
        listener.accept().unwrap();
        assert_eq!(waiting(ip, port), Some(1));
        drop(listener);
        assert_eq!(waiting(ip, port), None);
    }
}
