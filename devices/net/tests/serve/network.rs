//! The host's side: a network namespace with a tap and nothing else, and frames as they are on the wire.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The device's address and the host's, on the link and above.
pub const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
pub const HOST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const GUEST_IP: [u8; 4] = [10, 0, 0, 2];
const HOST_IP: [u8; 4] = [10, 0, 0, 1];
/// The port on each side.
pub const PORT: u16 = 7000;
/// The header of virtio-net, Ethernet, IPv4 and UDP.
pub const HEADERS: usize = 12 + 14 + 20 + 8;
/// Says to a test program that it is in the namespace.
const INSIDE: &str = "DEVICE_NET_TEST_INSIDE";

/// Runs `test`, which is called `name`, in namespaces of its own with an interface tap0.
pub fn with_tap(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        set_up("");
        return test();
    }
    let program = std::env::current_exe().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--net"]).arg(program).args(["--exact", name, "--nocapture"]);
    let output = unshare.env(INSIDE, "1").stdin(Stdio::null()).output().expect("unshare of util-linux");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}", said.concat());
    assert!(said[0].contains("1 passed"), "no such test: {}", said.concat());
}

/// The tap, with a word more of how.
pub fn set_up(how: &str) {
    // What a host with IPv6 says by itself would come between the frames.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    ip(format!("tuntap add tap0 mode tap {how}").trim_end());
    ip("link set tap0 address 52:54:00:00:00:01 mtu 9000 up");
    ip("address add 10.0.0.1/24 dev tap0");
    ip("neighbour add 10.0.0.2 lladdr 52:54:00:00:00:02 nud permanent dev tap0");
}

/// One command of iproute2.
pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip of iproute2");
    assert!(status.success(), "ip {arguments}");
}

/// The host's socket, to which the guest's datagrams are sent.
pub fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(("10.0.0.1", PORT)).unwrap();
    socket.connect(("10.0.0.2", PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// A frame of the guest with `payload` in a UDP datagram: the headers of Ethernet, IPv4 and UDP, and the payload. The
/// UDP checksum is that of the pseudo-header alone if it is to be `partial`, and absent if not.
pub fn frame(source: [u8; 6], payload: &[u8], partial: bool) -> Vec<u8> {
    let udp_length = u16::try_from(payload.len() + 8).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend((udp_length + 20).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend([GUEST_IP, HOST_IP].concat());
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = [&GUEST_IP[..], &HOST_IP, &[0, 17], &udp_length.to_be_bytes()].concat();
    let mut udp = [PORT.to_be_bytes(), PORT.to_be_bytes(), udp_length.to_be_bytes()].concat();
    udp.extend(if partial { sum(&pseudo).to_be_bytes() } else { [0; 2] });
    [&HOST[..], &source, &[8, 0], &ip, &udp, payload].concat()
}

/// The Internet checksum's sum, not inverted.
pub fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut total: u32 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap()
}
