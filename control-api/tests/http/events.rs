//! A reader of server-sent events, as browsers are.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use crate::service::Service;

/// So long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
pub struct Event {
    pub id: Option<String>,
    pub kind: String,
    pub data: String,
}

impl Event {
    /// The record of a `log` event.
    pub fn seq(&self) -> i64 {
        let data: Value = serde_json::from_str(&self.data).unwrap();
        data["seq"].as_i64().unwrap()
    }
}

pub struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// Begins, or goes on behind `last`.
    pub async fn open(service: &Service, token: &str, deployment: Uuid, last: Option<&str>) -> Self {
        let request = service.request(Method::GET, &format!("/api/deployments/{deployment}/logs"), token);
        let request = request.header("Accept", "text/event-stream");
        let request = last.into_iter().fold(request, |request, last| request.header("Last-Event-ID", last));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event, comments aside; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (parse(block), rest.to_owned());
                self.text = rest;
                if event.is_some() {
                    return event;
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.unwrap().unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next comment.
    pub async fn comment(&mut self) -> String {
        loop {
            if let Some(at) = self.text.find("\n\n").filter(|_| self.text.starts_with(':')) {
                let comment = self.text[..at].to_owned();
                self.text.drain(..at + 2);
                return comment;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
        }
    }

    /// So many records.
    pub async fn seqs(&mut self, count: usize) -> Vec<i64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            let event = self.next().await.unwrap();
            assert_eq!(event.kind, "log", "{event:?}");
            seqs.push(event.seq());
        }
        seqs
    }

    /// All to the end of the stream.
    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parse(block: &str) -> Option<Event> {
    let mut event = Event::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => event.id = Some(id.to_owned()),
            Some(("event", kind)) => event.kind = kind.to_owned(),
            Some(("data", data)) => event.data.push_str(data),
            _ => {}
        }
    }
    (!event.kind.is_empty()).then_some(event)
}
