//! Listeners: from bytes on a socket to records handed to the buffer.
