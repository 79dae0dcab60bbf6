// Puts log chunks in order that come from two sides: events, which may be lost, doubled, cut short or out of order, and pages
// of `tendril.tail`, which are the truth. Without I/O; what shows the log and what polls it stands in live-log.mjs.
//
// A chunk covers the records `seq .. seq_to` of its attempt, numbered from 0 without holes, and is stored once and never
// changed. So (attempt_id, seq) is its name, and an attempt's next chunk begins at the last one's seq_to + 1.

export class LogMerge {
  #logs = new Map() // attempt_id -> { read, early: Map(seq -> chunk), ended }

  /** `early`: chunks kept per attempt that came before the one in front of them; what is beyond comes again by polling. */
  constructor({ early = 200 } = {}) {
    this.bound = early
  }

  #log(attemptId) {
    if (!this.#logs.has(attemptId)) this.#logs.set(attemptId, { read: -1, early: new Map(), ended: null })
    return this.#logs.get(attemptId)
  }

  /** A row of `live_logs`. Returns the chunks that can be shown now, in order; often it is the one, sometimes none. */
  event(row) {
    // Large rows come without their text. Polling brings them.
    const whole = typeof row?.attempt_id === 'string' && typeof row.log_chunk === 'string'
    if (!whole || !Number.isSafeInteger(row.seq) || !Number.isSafeInteger(row.seq_to) || row.seq_to < row.seq) return []
    const log = this.#log(row.attempt_id)
    if (row.seq <= log.read) return []
    if (log.early.size < this.bound || row.seq === log.read + 1) log.early.set(row.seq, row)
    return this.#next(log)
  }

  /** Rows of `tendril.tail`: chunks to show, in order. A page begins behind the position that was asked for. */
  page(rows) {
    const shown = []
    for (const row of rows) {
      if (row.attempt_id === null) continue
      const log = this.#log(row.attempt_id)
      if (row.seq === null) {
        log.ended = row.at_end
      } else if (row.seq === log.read + 1) {
        log.early.set(row.seq, row)
        shown.push(...this.#next(log))
      }
    }
    return shown
  }

  #next(log) {
    const shown = []
    for (let row; (row = log.early.get(log.read + 1)); ) {
      log.read = row.seq_to
      shown.push(row)
    }
    for (const seq of log.early.keys()) if (seq <= log.read) log.early.delete(seq)
    return shown
  }

  /** What to hand to `tendril.tail` next: { attempt_id: last record that was shown }. */
  position() {
    return Object.fromEntries([...this.#logs].filter(([, log]) => log.read >= 0).map(([id, log]) => [id, log.read]))
  }

  /** Whether something came that has a hole in front of it: poll now rather than later. */
  hasGap() {
    return [...this.#logs.values()].some((log) => log.early.size > 0)
  }

  /** How an attempt's log ended, when that is known and all of it was shown: complete, incomplete or archived. */
  ended(attemptId) {
    return this.#logs.get(attemptId)?.ended ?? null
  }
}
