//! Sockets: listeners that several workers share, and connections that do not wait.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Connections that wait to be accepted, for each listener.
pub const BACKLOG: i32 = 1024;

/// Listens on `addr`; every worker may do so, and the kernel spreads the connections over them.
/// Call it inside the worker's runtime.
///
/// # Errors
/// When the address is taken by somebody else, or not ours.
pub fn tcp_reuseport(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = reusable(addr, Type::STREAM, Protocol::TCP)?;
    // Connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds a UDP socket to `addr`; every worker may do so. It does not block, and is not yet part of
/// a runtime.
///
/// # Errors
/// When the address is taken by somebody else, or not ours.
pub fn udp_reuseport(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = reusable(addr, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Connects within `limit`, and never waits to fill a segment (`TCP_NODELAY`).
///
/// # Errors
/// When nobody answers in time ([`io::ErrorKind::TimedOut`]) or the connection is refused.
pub async fn connect(addr: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = timeout(limit, TcpStream::connect(addr))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn reusable(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
    const AMPLE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn workers_share_an_address_and_connections_do_not_wait() {
        let one = tcp_reuseport(ANY).unwrap();
        let addr = one.local_addr().unwrap();
        let two = tcp_reuseport(addr).unwrap();
        let stream = connect(addr, AMPLE).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let accepted = tokio::select! {
            accepted = one.accept() => accepted,
            accepted = two.accept() => accepted,
        };
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }

    #[tokio::test]
    async fn udp_workers_share_an_address() {
        let one = udp_reuseport(ANY).unwrap();
        let two = udp_reuseport(one.local_addr().unwrap()).unwrap();
        assert_eq!(one.local_addr().unwrap(), two.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let addr = tcp_reuseport(ANY).unwrap().local_addr().unwrap();
        let error = connect(addr, AMPLE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
