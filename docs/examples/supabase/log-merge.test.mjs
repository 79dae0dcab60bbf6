// Run by `node --test`. Events are dropped, doubled, shuffled and cut short at random; what is shown has to be what was stored.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LogMerge } from './log-merge.mjs'

/** The same numbers for the same seed. */
const random = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

const chunk = (attempt, seq, seq_to) => ({ attempt_id: attempt, seq, seq_to, log_chunk: `${attempt} ${seq}-${seq_to}\n`, stream: 'stdout' })

/** Chunks of an attempt, of one to three records each. */
function stored(attempt, count, dice) {
  const rows = []
  for (let seq = 0; rows.length < count; ) {
    const seq_to = seq + Math.floor(dice() * 3)
    rows.push(chunk(attempt, seq, seq_to))
    seq = seq_to + 1
  }
  return rows
}

/** What `tendril.tail` would answer. */
const tail = (rows, position, limit) => rows.filter((row) => row.seq > (position[row.attempt_id] ?? -1)).slice(0, limit)

for (let seed = 1; seed <= 300; seed += 1) {
  test(`whatever happens to events, each chunk is shown once and in order: seed ${seed}`, () => {
    const dice = random(seed)
    const merge = new LogMerge({ early: 1 + Math.floor(dice() * 20) })
    const attempts = ['a', 'b', 'c'].map((name) => stored(name, 40, dice))
    const all = attempts.flat()
    const shown = []
    const loss = dice()
    const there = []
    for (let turn = 0; turn < 200; turn += 1) {
      // Some more is stored, and its events are on their way.
      const next = attempts[Math.floor(dice() * 3)].find((row) => !there.includes(row))
      if (next) there.push(next)
      const row = there[there.length - 1 - Math.floor(dice() * Math.min(there.length, 8))]
      if (dice() >= loss) shown.push(...merge.event(dice() < 0.1 ? { ...row, log_chunk: undefined } : { ...row }))
      if (dice() < 0.1) {
        // The answer to a poll may come after events that overtook it.
        const page = tail(there, merge.position(), 1 + Math.floor(dice() * 10))
        if (dice() < 0.5) shown.push(...merge.event({ ...row }))
        shown.push(...merge.page(page))
      }
    }
    for (let page; (page = tail(all, merge.position(), 7)).length > 0; ) shown.push(...merge.page(page))
    for (const rows of attempts) {
      const mine = shown.filter((row) => row.attempt_id === rows[0].attempt_id)
      assert.deepEqual(mine.map((row) => row.log_chunk), rows.map((row) => row.log_chunk))
    }
    assert.equal(merge.hasGap(), false)
  })
}

test('an event that overtakes is kept until what is in front of it comes', () => {
  const merge = new LogMerge()
  assert.deepEqual(merge.event(chunk('a', 2, 3)), [])
  assert.equal(merge.hasGap(), true)
  assert.deepEqual(merge.position(), {})
  assert.deepEqual(merge.event(chunk('a', 0, 1)).map((row) => row.seq), [0, 2])
  assert.deepEqual(merge.position(), { a: 3 })
  assert.equal(merge.hasGap(), false)
})

test('what is no chunk is left to polling', () => {
  const merge = new LogMerge()
  for (const bad of [null, {}, { ...chunk('a', 0, 0), log_chunk: null }, { ...chunk('a', 0, 0), seq: '0' }, chunk('a', 3, 2), chunk('a', 0.5, 1)]) {
    assert.deepEqual(merge.event(bad), [])
  }
  assert.deepEqual(merge.position(), {})
})

test('the end of a log is known from a page alone', () => {
  const merge = new LogMerge()
  merge.page([chunk('a', 0, 0), { attempt_id: 'a', seq: null, at_end: 'complete' }, { attempt_id: null, seq: null, at_end: 'complete' }])
  assert.equal(merge.ended('a'), 'complete')
  assert.equal(merge.ended('b'), null)
})
