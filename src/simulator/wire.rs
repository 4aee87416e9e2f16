//! Connections that can be cut: so many more bytes of answers, then a reset.
//!
//! What is cut, and when, is decided by the server.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// How many more bytes may be written on a connection.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<AtomicUsize>);

const UNLIMITED: usize = usize::MAX;

impl Allowance {
    /// Resets the connection after so many more bytes.
    pub(super) fn cut_after(&self, bytes: usize) {
        self.0.store(bytes, Ordering::SeqCst);
    }
}

/// A listener whose connections can be cut.
pub(super) struct CuttableListener(pub(super) TcpListener);

/// A connection that can be cut.
pub(super) struct Wire {
    stream: TcpStream,
    allowance: Allowance,
}

impl Listener for CuttableListener {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (stream, addr) = Listener::accept(&mut self.0).await;
        (Wire { stream, allowance: Allowance(Arc::new(AtomicUsize::new(UNLIMITED))) }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Allowance {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.io().allowance.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let left = this.allowance.0.load(Ordering::SeqCst);
        if left == 0 && !buf.is_empty() {
            // Closing with no time to linger sends a reset instead of an orderly end.
            let lingering = this.stream.set_zero_linger();
            return Poll::Ready(lingering.and(Err(io::ErrorKind::ConnectionReset.into())));
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, &buf[..buf.len().min(left)]);
        if let Poll::Ready(Ok(bytes)) = &written
            && left != UNLIMITED
        {
            this.allowance.0.store(left - bytes, Ordering::SeqCst);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
