//! Netlink messages of nfnetlink's nftables part (linux/netlink.h, linux/netfilter/nfnetlink.h).

use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

const SUBSYSTEM: u16 = 10;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Length of struct nlmsghdr and of struct nfgenmsg after it.
const HEADER: usize = 16;
const GENERAL: usize = 4;

/// Errors that say: this kernel has no nf_tables.
pub(super) fn absent(error: Errno) -> bool {
    matches!(error, Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::AFNOSUPPORT)
}

/// One message of the nftables part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// `NFT_MSG_*`.
    pub(super) kind: u8,
    /// `NFPROTO_*`.
    pub(super) family: u8,
    /// Attributes.
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes(&self.body)
    }
}

/// A run of attributes: length, type, value, padded to four bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a type.
    pub(super) fn get(self, wanted: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let (Some(length), Some(kind)) = (number(rest, 0), number(rest, 2)) {
            let length = usize::from(length);
            let value = rest.get(4..length)?;
            // The two highest bits are flags.
            if kind & 0x3fff == wanted {
                return Some(value);
            }
            rest = rest.get(padded(length)..).unwrap_or_default();
        }
        None
    }

    /// A value that is a NUL-terminated text.
    pub(super) fn text(self, wanted: u16) -> Option<String> {
        let value = self.get(wanted)?;
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        Some(String::from_utf8_lossy(value).into_owned())
    }

    pub(super) fn write(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, value) in attributes {
            // Names and numbers only: far below the 64 KiB that an attribute can hold.
            let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
            out.extend(length.to_ne_bytes());
            out.extend(kind.to_ne_bytes());
            out.extend(value);
            out.resize(padded(out.len()), 0);
        }
        out
    }
}

fn padded(length: usize) -> usize {
    length.div_ceil(4) * 4
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn frame(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + GENERAL + body.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER + GENERAL + body.len());
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(body);
    out
}

/// What came back: a message's type, sequence and what follows its header.
struct Reply {
    kind: u16,
    sequence: u32,
    payload: Vec<u8>,
}

fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(sequence)) = (word(bytes, 0), number(bytes, 4), word(bytes, 8)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(payload) = bytes.get(HEADER..length) else { break };
        found.push(Reply { kind, sequence, payload: payload.to_vec() });
        bytes = bytes.get(padded(length)..).unwrap_or_default();
    }
    found
}

/// A netlink socket to netfilter.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// `None` where the kernel has no netfilter netlink at all.
    pub(super) fn open() -> rustix::io::Result<Option<Self>> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        );
        match socket {
            Ok(socket) => {
                sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(5)))?;
                // A transaction's answers come all at once, one for each message.
                sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
                Ok(Some(Self(socket)))
            }
            Err(e) if absent(e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn send(&self, bytes: &[u8]) -> rustix::io::Result<()> {
        rustix::net::sendto(&self.0, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map(drop)
    }

    fn receive(&self) -> rustix::io::Result<Vec<Reply>> {
        let mut buffer = vec![0u8; 256 * 1024];
        let (_, length) = rustix::net::recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
        Ok(replies(buffer.get(..length).unwrap_or_default()))
    }

    /// All objects of one kind. The kernel says when the ruleset changed in between: then once more.
    pub(super) fn dump(&self, kind: u8) -> anyhow::Result<Vec<Message>> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.dump_once(kind, tries) {
                Err(Errno::INTR) if tries < 20 => {}
                other => return Ok(other?),
            }
        }
    }

    fn dump_once(&self, kind: u8, sequence: u32) -> rustix::io::Result<Vec<Message>> {
        let wanted = (SUBSYSTEM << 8) | u16::from(kind);
        self.send(&frame(wanted, REQUEST | DUMP, sequence, 0, 0, &[]))?;
        let mut found = Vec::new();
        loop {
            for reply in self.receive()?.into_iter().filter(|r| r.sequence == sequence) {
                match reply.kind {
                    DONE => return Ok(found),
                    ERROR => return failed(&reply.payload).map_or(Ok(found), Err),
                    kind if kind >> 8 == SUBSYSTEM => found.push(Message {
                        kind: kind.to_be_bytes()[1],
                        family: reply.payload.first().copied().unwrap_or_default(),
                        body: reply.payload.get(GENERAL..).unwrap_or_default().to_vec(),
                    }),
                    _ => {}
                }
            }
        }
    }

    /// All messages as one transaction.
    pub(super) fn transact(&self, messages: &[Message]) -> anyhow::Result<()> {
        // Sequence numbers of their own: nothing that an earlier call left unread is taken for an answer.
        let first = 1_000_000;
        let mut bytes = frame(BATCH_BEGIN, REQUEST, first, 0, SUBSYSTEM, &[]);
        let mut sequence = first;
        for message in messages {
            sequence += 1;
            let kind = (SUBSYSTEM << 8) | u16::from(message.kind);
            bytes.extend(frame(kind, REQUEST | ACK, sequence, message.family, 0, &message.body));
        }
        bytes.extend(frame(BATCH_END, REQUEST, sequence + 1, 0, SUBSYSTEM, &[]));
        self.send(&bytes)?;
        let mut waiting = messages.len();
        while waiting > 0 {
            for reply in self.receive()?.into_iter().filter(|r| r.kind == ERROR && r.sequence >= first) {
                if let Some(error) = failed(&reply.payload) {
                    return Err(error.into());
                }
                waiting = waiting.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// The error of an error message; none for a mere acknowledgement.
fn failed(payload: &[u8]) -> Option<Errno> {
    let code = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    (code != 0).then(|| Errno::from_raw_os_error(code.saturating_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found() {
        let bytes = Attributes::write(&[(1, b"ab\0".to_vec()), (2, vec![7]), (3, b"c\0".to_vec())]);
        assert_eq!(bytes.len() % 4, 0);
        let attributes = Attributes(&bytes);
        assert_eq!(attributes.text(1).unwrap(), "ab");
        assert_eq!(attributes.get(2).unwrap(), [7]);
        assert_eq!(attributes.text(3).unwrap(), "c");
        assert_eq!(attributes.get(4), None);
    }

    #[test]
    fn rubbish_ends_reading() {
        assert_eq!(Attributes(&[2, 0, 1, 0, 9, 9]).get(5), None);
        assert_eq!(Attributes(&[255, 255, 1, 0]).get(1), None);
        assert!(replies(&[1, 2, 3]).is_empty());
        assert!(replies(&[200; 64]).is_empty());
        assert!(replies(&[0; 64]).len() <= 4);
    }
}
