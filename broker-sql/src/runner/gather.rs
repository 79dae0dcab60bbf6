//! Questions that are asked together: what comes while a call is under way waits for it, and goes in the next. Nobody waits for
//! company.

use tokio::sync::{mpsc, oneshot};

/// Questions of one call.
const AT_MOST: usize = 100;

/// Hands questions to one call after the other.
pub struct Gather<Q, A> {
    questions: mpsc::Sender<(Q, oneshot::Sender<A>)>,
}

impl<Q: Send + 'static, A: Send + 'static> Gather<Q, A> {
    /// `call` returns an answer for each question, in their order. It is made by a task of its own, so that whoever stops to wait
    /// takes no answer from others; the task ends with this value.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new<F>(call: impl Fn(Vec<Q>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Vec<A>> + Send,
    {
        let (questions, mut waiting) = mpsc::channel::<(Q, oneshot::Sender<A>)>(AT_MOST);
        tokio::spawn(async move {
            let mut next = Vec::new();
            while waiting.recv_many(&mut next, AT_MOST).await > 0 {
                // Who has stopped to wait does not want it any more.
                next.retain(|(_, answer)| !answer.is_closed());
                let (asked, told): (Vec<_>, Vec<_>) = next.drain(..).unzip();
                if asked.is_empty() {
                    continue;
                }
                for (told, answer) in told.into_iter().zip(call(asked).await) {
                    drop(told.send(answer));
                }
            }
        });
        Self { questions }
    }

    /// The answer; none if the call gave too few.
    pub async fn ask(&self, question: Q) -> Option<A> {
        let (told, answer) = oneshot::channel();
        self.questions.send((question, told)).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::{Notify, Semaphore};

    /// Calls that end when they are let go, and what each was asked.
    struct Slow {
        gather: Gather<u32, u32>,
        calls: Arc<Mutex<Vec<Vec<u32>>>>,
        begun: Arc<Notify>,
        may_end: Arc<Semaphore>,
    }

    fn slow() -> Slow {
        let (calls, begun, may_end) =
            (Arc::<Mutex<Vec<_>>>::default(), Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let (made, told, gate) = (calls.clone(), begun.clone(), may_end.clone());
        let gather = Gather::new(move |asked: Vec<u32>| {
            made.lock().unwrap().push(asked.clone());
            told.notify_one();
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                asked.iter().map(|n| n * 2).collect()
            }
        });
        Slow { gather, calls, begun, may_end }
    }

    #[tokio::test]
    async fn a_lone_question_waits_for_nobody_and_those_that_come_meanwhile_go_together() {
        let Slow { gather, calls, begun, may_end } = slow();
        let (first, others, ()) = tokio::join!(
            gather.ask(1),
            async {
                begun.notified().await;
                futures_util::future::join_all((2..=120).map(|n| gather.ask(n))).await
            },
            async {
                // With the first under way, all that fit are waiting once the hundredth has come.
                while gather.questions.capacity() > 0 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(*calls.lock().unwrap(), [vec![1]]);
                may_end.add_permits(9);
            }
        );
        assert_eq!(first, Some(2));
        assert_eq!(others, (2..=120).map(|n| Some(n * 2)).collect::<Vec<_>>());
        let calls = calls.lock().unwrap();
        assert_eq!(calls.concat(), (1..=120).collect::<Vec<_>>(), "each once, in their order");
        assert!(calls[1].len() == AT_MOST, "{calls:?}");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_asked_for() {
        let Slow { gather, calls, begun, may_end } = slow();
        let (first, last, ()) = tokio::join!(
            gather.ask(1),
            async {
                begun.notified().await;
                let mut dropped = Box::pin(gather.ask(2));
                tokio::select! {
                    biased;
                    _ = &mut dropped => panic!("the first is still under way"),
                    () = std::future::ready(()) => {}
                }
                drop(dropped);
                gather.ask(3).await
            },
            async {
                while gather.questions.capacity() > AT_MOST - 2 {
                    tokio::task::yield_now().await;
                }
                may_end.add_permits(9);
            }
        );
        assert_eq!((first, last), (Some(2), Some(6)));
        assert_eq!(*calls.lock().unwrap(), [vec![1], vec![3]]);
    }
}
