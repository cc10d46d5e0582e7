//! What falls due when, in log time: an ordered index that machines share.
