//! Keys and certificates: bytes in, bytes out. No I/O, no async, no clock (time is an argument).
