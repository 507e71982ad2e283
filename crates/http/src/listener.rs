//! The listening socket, with the options that accepted connections inherit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that may wait to be accepted; the system may cap it.
const BACKLOG: i32 = 4096;
/// Sent data that stays unacknowledged this long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel asks a silent peer for a sign of life after this time, and then after each
/// third of it.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// What the kernel may keep for a connection in each direction, in bytes; it doubles
/// it. It counts against the container's memory.
const BUFFER: usize = 32 * 1024;

/// Listens on `address`, or on all addresses of both families.
///
/// # Errors
/// The address cannot be listened on.
pub fn bind(address: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match address {
        Some(address) => listen(SocketAddr::new(address, port)),
        None => listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).or_else(|error| {
            // A kernel without IPv6 refuses the family, not the port.
            if error.kind() == io::ErrorKind::AddrInUse {
                return Err(error);
            }
            listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
        }),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    set_options(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes over a socket that another program has bound.
///
/// # Errors
/// It is no socket that listens for TCP connections.
pub fn adopt(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let socket = Socket::from(descriptor);
    if socket.local_addr()?.as_socket().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the inherited socket is none of TCP"));
    }
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the inherited descriptor does not listen"));
    }
    set_options(&SockRef::from(&socket))?;
    socket.set_nonblocking(false)?;
    socket.set_cloexec(true)?;
    // The program that bound it may have asked for a shorter queue.
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Linux hands these on to every accepted connection.
fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Else the kernel wakes us for an urgent byte and does not count it.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_connection_has_the_options_of_its_listener() {
        let foreign = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        foreign.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        foreign.listen(1).unwrap();
        let inherited = adopt(foreign.into()).unwrap();
        for listener in [inherited, bind(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap()] {
            let address = listener.local_addr().unwrap();
            // More than a queue of one holds.
            let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            for _ in &clients {
                let (accepted, _) = listener.accept().unwrap();
                let socket = SockRef::from(&accepted);
                assert_eq!(socket.recv_buffer_size().unwrap(), 2 * BUFFER);
                assert_eq!(socket.send_buffer_size().unwrap(), 2 * BUFFER);
                assert_eq!(socket.write_timeout().unwrap(), None);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            }
        }
    }
}
