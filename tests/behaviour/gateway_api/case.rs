//! One request, and what must come of it.

use http::Request;
use outrigger_tests::app::http::{empty, full};
use outrigger_tests::{Answer, Mesh, request};

/// One line of a table: what is sent, and what must happen.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    caller: &'static str,
    method: &'static str,
    url: String,
    headers: Vec<(&'static str, String)>,
    http2: bool,
    status: u16,
    /// The service whose instance must answer.
    backend: Option<String>,
    /// What the answer must carry; empty: must not.
    answered: Vec<(&'static str, String)>,
    /// What the application must have seen; empty: must not.
    seen: Vec<(&'static str, String)>,
}

/// GET of a URL, by `web`; 200 is expected.
pub(crate) fn get(url: &str) -> Case {
    send("GET", url)
}

/// A request of a URL, by `web`; 200 is expected.
pub(crate) fn send(method: &'static str, url: &str) -> Case {
    Case {
        caller: "web",
        method,
        url: url.to_owned(),
        headers: Vec::new(),
        http2: false,
        status: 200,
        backend: None,
        answered: Vec::new(),
        seen: Vec::new(),
    }
}

/// A gRPC call, as `http://talk.shop/talk.v1.Talk/Say`.
pub(crate) fn call(url: &str) -> Case {
    send("POST", url).http2().with("content-type", "application/grpc").with("te", "trailers")
}

impl Case {
    /// Sent by this workload.
    pub(crate) fn from(mut self, caller: &'static str) -> Self {
        self.caller = caller;
        self
    }

    /// With this header.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Over HTTP/2 with prior knowledge.
    pub(crate) fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// An instance of this service answers.
    pub(crate) fn to(mut self, service: &str) -> Self {
        self.backend = Some(service.to_owned());
        self
    }

    /// The answer has this status.
    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The caller's proxy answers with this status, for this reason.
    pub(crate) fn fails(self, status: u16, reason: &str) -> Self {
        self.status(status).answers("outrigger-error", &format!("{reason}; by=outbound"))
    }

    /// The caller's proxy ends the call with this code.
    pub(crate) fn ends(self, code: u32, reason: &str) -> Self {
        self.fails(200, reason).answers("grpc-status", &code.to_string())
    }

    /// The answer carries this; with an empty value, no such header at all.
    pub(crate) fn answers(mut self, name: &'static str, value: &str) -> Self {
        self.answered.push((name, value.to_owned()));
        self
    }

    /// The application saw this; with an empty value, no such header at all.
    pub(crate) fn sees(mut self, name: &'static str, value: &str) -> Self {
        self.seen.push((name, value.to_owned()));
        self
    }

    fn request(&self) -> Request<outrigger_tests::app::http::Body> {
        let headers: Vec<(&'static str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = if self.method == "POST" { full("\0\0\0\0\0") } else { empty() };
        request(self.method, &self.url, &headers, body)
    }

    async fn answer(&self, mesh: &Mesh) -> Answer {
        let client = mesh.client(self.caller);
        let client = if self.http2 { client.http2() } else { client };
        client.answer(self.request()).await
    }

    /// What is wrong with the answer.
    fn objection(&self, mesh: &Mesh, answer: &Answer) -> Option<String> {
        if answer.status != self.status {
            return Some(format!("{} instead of {}", answer.status, self.status));
        }
        if let Some(backend) = &self.backend
            && answer.instance().rsplit_once('-').map(|(service, _)| service) != Some(backend)
        {
            return Some(format!("answered by {:?} instead of {backend}", answer.instance()));
        }
        let wrong = self.answered.iter().find(|(name, value)| answer.header(name) != value);
        if let Some((name, value)) = wrong {
            return Some(format!("{name} is {:?} instead of {value:?}", answer.header(name)));
        }
        if self.seen.is_empty() {
            return None;
        }
        let service = answer.instance().rsplit_once('-').map_or("", |(service, _)| service);
        let seen = mesh.instance(service, 0).record().seen().last().cloned();
        let Some(seen) = seen else { return Some(format!("{service} saw nothing")) };
        let wrong = self.seen.iter().find(|(name, value)| seen.header(name) != value)?;
        Some(format!(
            "the application saw {} as {:?} instead of {:?}",
            wrong.0,
            seen.header(wrong.0),
            wrong.1
        ))
    }
}

/// Sends what each case says, one after the other, and looks at what comes back.
#[track_caller]
pub(crate) fn check(mesh: &Mesh, cases: Vec<Case>) -> impl Future<Output = ()> {
    let asked_at = std::panic::Location::caller();
    async move {
        for (number, case) in cases.iter().enumerate() {
            let answer = case.answer(mesh).await;
            if let Some(objection) = case.objection(mesh, &answer) {
                panic!("case {number} of {asked_at}: {objection}\nsent: {case:?}\nanswer: {answer:?}");
            }
        }
    }
}
