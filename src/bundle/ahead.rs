//! A reader that reads ahead in a thread of its own.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

/// Bytes of one piece.
const PIECE: usize = 1 << 19;
/// So many pieces wait to be taken; two more are in the hands of the two threads.
const WAITING: usize = 4;

/// Gives what another reader gives, with its errors at their places. When it is dropped, the thread ends.
pub(crate) struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    /// Pieces go back to be filled again: fresh memory costs the kernel more than what is done with it here.
    empty: Sender<Vec<u8>>,
    now: Vec<u8>,
    taken: usize,
}

impl Ahead {
    /// Reads `from` to its end or first error.
    pub(crate) fn new<'scope>(from: impl Read + Send + 'scope, scope: &'scope Scope<'scope, '_>) -> Self {
        let (to, full) = sync_channel(WAITING);
        let (empty, back) = channel();
        scope.spawn(move || fill(from, &to, &back));
        Self { full, empty, now: Vec::new(), taken: 0 }
    }
}

/// Until the end, an error, or nobody takes it any more.
fn fill(mut from: impl Read, to: &SyncSender<io::Result<Vec<u8>>>, back: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = back.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let read = from.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let last = read.is_err() || piece.len() < PIECE;
        // What came before an error is read before it.
        let gone = !piece.is_empty() && to.send(Ok(piece)).is_err();
        if let Err(e) = read {
            // Nobody may be there to hear it.
            let _ = to.send(Err(e));
        }
        if gone || last {
            return;
        }
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken >= self.now.len()
            && let Ok(next) = self.full.recv()
        {
            let done = std::mem::replace(&mut self.now, next?);
            self.taken = 0;
            // The thread may have ended.
            let _ = self.empty.send(done);
        }
        Ok(self.now.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.taken = self.taken.saturating_add(n);
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Gives `left` bytes, then fails.
    struct Failing {
        left: usize,
    }

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.left.min(buffer.len());
            self.left -= n;
            buffer[..n].fill(7);
            if n == 0 { Err(io::Error::other("broken")) } else { Ok(n) }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn gives_what_it_was_given(len in 0..(5 * PIECE), step in 1_usize..(2 * PIECE)) {
            let wanted: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let mut got = Vec::new();
            thread::scope(|scope| {
                let mut ahead = Ahead::new(wanted.as_slice(), scope);
                loop {
                    let n = ahead.fill_buf().unwrap().len().min(step);
                    if n == 0 { break }
                    got.extend_from_slice(&ahead.fill_buf().unwrap()[..n]);
                    ahead.consume(n);
                }
            });
            prop_assert_eq!(got, wanted);
        }
    }

    #[test]
    fn an_error_comes_after_what_was_read_before_it() {
        for left in [0, 10, PIECE, 2 * PIECE + 1] {
            let mut got = Vec::new();
            let error = thread::scope(|scope| Ahead::new(Failing { left }, scope).read_to_end(&mut got)).unwrap_err();
            assert_eq!((got.len(), error.to_string().as_str()), (left, "broken"));
        }
    }

    #[test]
    fn its_thread_ends_when_nobody_reads_on() {
        thread::scope(|scope| {
            let mut ahead = Ahead::new(io::repeat(1), scope);
            assert_eq!(ahead.read(&mut [0; 10]).unwrap(), 10);
        });
    }
}
