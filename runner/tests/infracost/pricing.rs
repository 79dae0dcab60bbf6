//! A pricing server on loopback, as far as Infracost needs one; it also stands in for all the rest of the network.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpSocket};

/// More than Infracost asks in one request here, in bytes.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// What it knows.
#[derive(Clone, Copy)]
pub enum Prices {
    /// Every price, the same for all, in this currency.
    All { currency: &'static str, price: &'static str },
    /// No product.
    None,
    /// Every product, none with a price.
    Unpriced,
    /// It is broken, and answers so.
    Broken,
    /// It wants another key.
    Denied,
    /// It answers with something else.
    Nonsense,
}

/// The server. Gone with this value.
pub struct Pricing {
    address: SocketAddr,
    seen: Arc<Seen>,
    /// Holds the port of one that is down: nobody listens there, and nobody else can.
    _port: Option<TcpSocket>,
    server: Option<tokio::task::JoinHandle<()>>,
}

struct Seen {
    prices: Prices,
    requests: Mutex<Vec<String>>,
}

impl Pricing {
    pub async fn with(prices: Prices) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen { prices, requests: Mutex::default() });
        let app = Router::new().fallback(answer).with_state(seen.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, seen, _port: None, server: Some(server) }
    }

    /// One that refuses connections.
    pub fn down() -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap();
        let seen = Arc::new(Seen { prices: Prices::None, requests: Mutex::default() });
        Self { address, seen, _port: Some(port), server: None }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked, in order: `POST /graphql`.
    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }
}

impl Drop for Pricing {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// Anything that comes is noted; a proxy's CONNECT, and thus a connection to anywhere else, is refused.
async fn answer(State(seen): State<Arc<Seen>>, request: Request) -> impl IntoResponse {
    let what = format!("{} {}", request.method(), request.uri());
    seen.requests.lock().unwrap().push(what.clone());
    let body = axum::body::to_bytes(request.into_body(), MAX_REQUEST_BYTES).await.unwrap();
    match what.as_str() {
        "POST /graphql" => seen.prices.answer(&serde_json::from_slice(&body).unwrap()),
        "POST /event" => (StatusCode::OK, "{}".to_owned()),
        _ => (StatusCode::FORBIDDEN, "this network ends here".to_owned()),
    }
}

impl Prices {
    /// A list of answers to a list of questions.
    fn answer(self, questions: &Value) -> (StatusCode, String) {
        let products = match self {
            Self::All { currency, price } => json!([{"prices": [{"priceHash": "hash", currency: price}]}]),
            Self::None => json!([]),
            Self::Unpriced => json!([{"prices": []}]),
            Self::Broken => return (StatusCode::INTERNAL_SERVER_ERROR, json!({"error": "out of order"}).to_string()),
            Self::Denied => return (StatusCode::FORBIDDEN, json!({"error": "Invalid API key"}).to_string()),
            Self::Nonsense => return (StatusCode::OK, "<html>hello</html>".to_owned()),
        };
        let questions = questions.as_array().expect("a list of questions");
        let answers: Vec<Value> = questions.iter().map(|_| json!({"data": {"products": products}})).collect();
        (StatusCode::OK, json!(answers).to_string())
    }
}
