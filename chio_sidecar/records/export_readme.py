"""The README.md of an export, for a reader who has nothing else."""

README = """\
# Receipts: {name}

Each receipt is the signed record of one decision about one HTTP request: whether it was allowed to run, and why.

- `receipts.ndjson`: one receipt a line, byte for byte as it was stored; or the signed record of its erasure.
- `chain.ndjson`: for each receipt the row of the store that held it: number, ids, fingerprint, time of storage, digest.
- `manifest.json`: the time and the rows of this export, the digest before its first row, the head, which keys signed
  which rows, whether the export is complete, and a signed statement about the head.

Sidecars that share a database have a log each. Then each log has these three files in a folder `log-N`, and the
`manifest.json` beside the folders lists them and their heads, with a signed statement about that.

## Verify

    chio-sidecar receipt verify{options} {name}

Compare the keys with keys that you know from elsewhere first: an export cannot vouch for itself. The command verifies
each signature, follows the chain from `before` to `head`, and refuses an export in which receipts are missing.

Exit status 0: every receipt is valid, and none is missing. 1: something was changed. 3: what is here is valid, and
receipts are missing.

## Verify without the command

- A receipt's `signature` is Ed25519 (RFC 8032), by `kernel_key`, over the canonical JSON (RFC 8785) of the receipt
  without its member `signature`, and without optional members that are null or empty lists.
- A number is 8 bytes, big-endian. A text is the number of its UTF-8 bytes, then these bytes.
- A row's content is SHA-256 over the bytes `chio.receipt-store.content.v1` and a zero byte, then as texts: the
  receipt's line, fingerprint.
- A row's digest is SHA-256 over the bytes `chio.receipt-store.row.v2` and a zero byte, then the digest of the row
  before as a text, the row's number, and as texts: id, content, request id, time of storage.
- Earlier versions made another digest: SHA-256 over the bytes `chio.receipt-store.row.v1` and a zero byte, then the
  digest of the row before as a text, the row's number, and as texts: id, the receipt's line, request id, fingerprint,
  time of storage.
- In the place of an erased receipt is the record of that, whose `format` is `chio-receipt-erasure/1`, and the row has
  an empty fingerprint. The record states the row's `content`, and its `signature` is made as a receipt's. If its member
  `form` is 1, an earlier version has stored the row, and the digest follows from nothing that is left: then the record
  states that `digest`, and the digest of the row before, `previous`, and only its signature vouches for the link.
- Before the first row of a store the digest is SHA-256 over `chio.receipt-store.first.v1` and a zero byte.
- The statement's `signature` is made as a receipt's. Its members name the first and the last row, and the head.

## What it shows

Since the head was stated, no receipt between the first and the last row was changed, removed or added. The holder
of the key can sign another history: compare the head with one that was kept elsewhere at that time, if there is one. A
receipt states the decision. Whether the application acted on it is in the application's own records.
"""
