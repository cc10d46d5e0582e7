//! Cache coherence: who may hold a copy of what, and when a write may be shown.
