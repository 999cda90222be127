//! Random moments that a seed brings back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Numbers that follow from a seed: xorshift64*.
pub struct Dice(u64);

impl Dice {
    /// From KPROV_TEST_SEED, else from the clock; printed, so that a failure can be had again.
    pub fn printed() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let seed = number("KPROV_TEST_SEED").unwrap_or_else(clock);
        println!("  KPROV_TEST_SEED={seed}");
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }

    /// A moment within this time.
    pub fn within(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.throw() as f64 / f64::from(u32::MAX))
    }

    /// A number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.throw() % end.max(1)
    }
}

/// A command that is interrupted again and again, at moments within the time that it takes.
pub struct Aim {
    /// Its name.
    pub what: &'static str,
    /// How often it was met before its end.
    pub times: u64,
    span: Duration,
}

impl Aim {
    /// It takes about so many seconds.
    pub fn new(what: &'static str, seconds: u64) -> Self {
        Self { what, times: 0, span: Duration::from_secs(seconds) }
    }

    /// The next moment.
    pub fn moment(&self, dice: &mut Dice) -> Duration {
        dice.within(self.span)
    }

    /// It was met.
    pub fn met(&mut self) {
        self.times += 1;
    }

    /// It had ended by then: the next moments come before.
    pub fn ended(&mut self, after: Duration) {
        self.span = after.mul_f64(0.9);
    }
}

/// How many tries of a kind: KPROV_TEST_KILLS, which `make soak` sets, else so many.
pub fn tries(few: u64) -> u64 {
    number("KPROV_TEST_KILLS").unwrap_or(few)
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
