//! The `.npy` format, pure: bytes in, values out, no I/O.
