//! A name server that answers what a test tells it to, over UDP (RFC 1035).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Names with their addresses, and for how many seconds these hold.
type Zone = HashMap<String, (Vec<Ipv4Addr>, u32)>;

/// A running name server. Dropping it ends it.
#[derive(Debug)]
pub struct Dns {
    /// Where it answers.
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    asked: Arc<Mutex<Vec<String>>>,
    serving: AbortHandle,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Dns {
    /// One that knows no name yet.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port on loopback can be bound");
        let address = socket.local_addr().expect("a bound socket has an address");
        let (zone, asked) = (Arc::new(Mutex::new(Zone::new())), Arc::new(Mutex::new(Vec::new())));
        let serving = tokio::spawn(serve(socket, zone.clone(), asked.clone())).abort_handle();
        Self { address, zone, asked, serving }
    }

    /// From now on the name has these addresses, for so many seconds after each answer.
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr], seconds: u32) {
        let mut zone = self.zone.lock().expect("no holder panics");
        zone.insert(name.to_owned(), (addresses.to_vec(), seconds));
    }

    /// From now on there is no such name.
    pub fn remove(&self, name: &str) {
        self.zone.lock().expect("no holder panics").remove(name);
    }

    /// How often the name was asked for.
    pub fn questions(&self, name: &str) -> usize {
        self.asked.lock().expect("no holder panics").iter().filter(|asked| *asked == name).count()
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut packet = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        let Some((name, kind, end)) = question(&packet[..length]) else { continue };
        let known = zone.lock().expect("no holder panics").get(&name).cloned();
        asked.lock().expect("no holder panics").push(name);
        let _ = socket.send_to(&answer(&packet[..end], kind, known), from).await; // asked again where it is lost
    }
}

/// Name and type of the one question, and where it ends.
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = packet.get(at..at + 2)?;
    Some((labels.join("."), u16::from_be_bytes([kind[0], kind[1]]), at + 4))
}

fn answer(asked: &[u8], kind: u16, known: Option<(Vec<Ipv4Addr>, u32)>) -> Vec<u8> {
    const A: u16 = 1;
    const NO_SUCH_NAME: u8 = 3;
    let code = if known.is_some() { 0 } else { NO_SUCH_NAME };
    let (addresses, seconds) = known.filter(|_| kind == A).unwrap_or_default();
    let count = u8::try_from(addresses.len()).expect("a test gives few addresses");
    let mut packet = asked.to_vec();
    packet[2..12].copy_from_slice(&[0x85, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    for address in addresses {
        packet.extend([0xc0, 12, 0, 1, 0, 1]);
        packet.extend(seconds.to_be_bytes());
        packet.extend([0, 4]);
        packet.extend(address.octets());
    }
    packet
}
