//! A WebSocket application by a library that knows nothing of the mesh.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::accept_async;

use super::App;

/// Sends back each text and binary message.
pub fn echo() -> App {
    App::new(|accepted| async move {
        // Health checks open a connection and say nothing.
        let Ok(mut socket) = accept_async(accepted.stream).await else { return };
        accepted.record.begin();
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
}
