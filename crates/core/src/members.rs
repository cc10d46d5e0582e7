//! Who is alive: membership leases and the ring's epoch.
