//! What a driver has from a process that is gone: nothing that was acknowledged is lost, nothing is mistaken for something
//! else, and what is looked up again is found.

use nix::libc::{ESTALE, O_RDWR};

use crate::client::{Client, body};
use crate::front_end::driver::Driver;
use crate::{Place, ROOT, ends_well, started};

#[test]
fn a_successor_serves_a_driver_that_does_not_begin_anew() {
    let place = Place::new();
    let (mut nodes, mut handles) = (Vec::new(), Vec::new());
    for round in 0..5u8 {
        let device = started(&place.shared(), &[]);
        // No INIT but the first: the driver was told of nothing.
        let mut client = Client::new(Driver::new(&device), round == 0);
        for (node, handle) in nodes.iter().zip(&handles) {
            assert_eq!(client.attributes(*node).err(), Some(ESTALE));
            assert_eq!(client.read(*node, *handle, 0, 16).err(), Some(ESTALE));
            assert_eq!(client.write(*node, *handle, 0, b"lost?").err(), Some(ESTALE), "not acknowledged");
            assert_eq!(client.ask(20, *node, &body(&[*handle, 0], b"")).err(), Some(ESTALE));
            client.tell(2, *node, &body(&[1], b""));
            client.release(*node, *handle);
        }
        for before in 0..round {
            let file = client.lookup(ROOT, &format!("file{before}")).unwrap();
            assert!(!nodes.contains(&file.node), "a number of a predecessor's");
            let handle = client.open(file.node, O_RDWR).unwrap();
            assert_eq!(client.read(file.node, handle, 0, 16).unwrap(), [before; 16]);
            client.release(file.node, handle);
        }
        let (file, handle) = client.create(ROOT, &format!("file{round}"), O_RDWR, 0o600).unwrap();
        assert_eq!(client.write(file.node, handle, 0, &[round; 16]), Ok(16));
        nodes.push(file.node);
        handles.push(handle);
        drop(client);
        // As SIGKILL would: not asked, and with the file open.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(device.confined_pid()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        let (code, log) = device.end();
        assert_eq!(code, Some(7), "{log}");
    }
    ends_well(started(&place.shared(), &[]));
}
