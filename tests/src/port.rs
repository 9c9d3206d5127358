//! A port that stays ours while nothing listens on it.
//!
//! Between the death of a server and its restart on the same port, any socket on the machine could take the port.
//! A socket that is bound and does not listen keeps it: callers are refused, and a listener of our own may still
//! bind, because both allow the address to be used again.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A reserved port on loopback. Dropping it gives it back.
#[derive(Debug)]
pub struct Port {
    /// Where to listen, or to be refused.
    pub address: SocketAddr,
    _socket: Socket,
}

impl Port {
    /// A free port.
    pub fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        socket.set_reuse_address(true).expect("a socket's options can be set");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a port on loopback can be bound");
        let address =
            socket.local_addr().ok().and_then(|a| a.as_socket()).expect("a bound socket has an address");
        Self { address, _socket: socket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_reserved_port_refuses_callers_and_takes_one_listener_after_the_other() {
        let port = Port::reserve();
        assert!(TcpStream::connect(port.address).await.is_err());
        for _ in 0..3 {
            let listener = TcpListener::bind(port.address).await.unwrap();
            let (caller, accepted) = tokio::join!(TcpStream::connect(port.address), listener.accept());
            drop((caller.unwrap(), accepted.unwrap()));
            drop(listener);
            assert!(TcpStream::connect(port.address).await.is_err());
        }
    }
}
