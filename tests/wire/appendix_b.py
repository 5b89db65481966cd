"""What 104 inputs lead to: appendix B of threats.md, in its order, for the codec and for a whole gateway.

Must never: hold an input without the status that a client gets for it.
"""

from __future__ import annotations

__all__ = ["APPENDIX_B", "OK", "chunks", "coding", "field", "get", "host", "length", "post"]


def get(path: bytes = b"/mcp", more: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"GET " + path + b" HTTP/" + version + b"\r\nHost: a\r\n" + more + b"\r\n"


def post(
    more: bytes, body: bytes = b"", line: bytes = b"POST /mcp HTTP/1.1", host: bytes = b"Host: a\r\n"
) -> bytes:
    return line + b"\r\n" + host + more + b"\r\n" + body


def length(value: bytes) -> bytes:
    return post(b"Content-Length: " + value + b"\r\n", b"{}")


def coding(value: bytes) -> bytes:
    return post(b"Transfer-Encoding:" + value + b"\r\n", b"0\r\n\r\n")


def chunks(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def field(line: bytes) -> bytes:
    return post(line + b"\r\nContent-Length: 2\r\n", b"{}")


def host(value: bytes) -> bytes:
    return post(b"Content-Length: 2\r\n", b"{}", host=b"Host: " + value + b"\r\n")


OK = 0
# Appendix B, in its order: what h11 makes of each is there; here is what a client gets. OK: it is served.
APPENDIX_B: list[tuple[str, bytes, int]] = [
    ("valid POST CL", length(b"2"), OK),
    ("CL.TE both headers", post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nG"), 400),
    (
        "TE.CL",
        post(
            b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"12\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n"
        ),
        400,
    ),
    ("TE: xchunked", coding(b" xchunked"), 501),
    ("TE: gzip, chunked", coding(b" gzip, chunked"), 501),
    ("TE: chunked, identity", coding(b" chunked, identity"), 501),
    ("TE: identity", coding(b" identity"), 501),
    ("TE: CHUNKED (case)", coding(b" CHUNKED"), OK),
    ("TE duplicate chunked x2", coding(b" chunked\r\nTransfer-Encoding: chunked"), 501),
    ("TE with \\x0b", coding(b"\x0bchunked"), 400),
    ("TE name space before colon", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), 400),
    ("TE leading tab value", coding(b"\tchunked"), OK),
    ("TE on HTTP/1.0", post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"POST /mcp HTTP/1.0"), 400),
    ("dup CL same", length(b"2\r\nContent-Length: 2"), 400),
    ("dup CL differ", length(b"2\r\nContent-Length: 3"), 400),
    ("CL list 2, 2", length(b"2, 2"), 400),
    ("CL list 2, 3", length(b"2, 3"), 400),
    ("CL +2", length(b"+2"), 400),
    ("CL -1", length(b"-1"), 400),
    ("CL 0x2", length(b"0x2"), 400),
    ("CL 2_0", length(b"2_0"), 400),
    ("CL empty", length(b""), 400),
    ("CL 5000 digits", length(b"1" * 5000), 400),
    ("CL 30 digits", length(b"1" * 30), 400),
    ("CL superscript digit utf8", length("²".encode()), 400),
    ("obs-fold header", field(b"X-A: a\r\n b"), 400),
    ("obs-fold TE", coding(b"\r\n chunked"), 400),
    ("obs-fold on first header line", post(b"", host=b" x\r\nHost: a\r\n"), 400),
    ("bare LF everywhere", length(b"2").replace(b"\r\n", b"\n"), 400),
    ("bare LF one header", length(b"2").replace(b"Host: a\r\n", b"Host: a\n"), 400),
    ("bare CR in header value", field(b"X: a\rTransfer-Encoding: chunked"), 400),
    ("NUL in header value", field(b"X: a\x00b"), 400),
    ("ctl 0x01 in value", field(b"X: a\x01b"), 400),
    ("obs-text 0xff in value", field(b"X: a\xff"), 400),
    ("header name with space", field(b"X A: b"), 400),
    ("header name underscore", field(b"Content_Length: 9"), 400),
    ("empty header name", field(b": b"), 400),
    ("header w/o colon", field(b"garbage"), 400),
    ("no Host (1.1)", post(b"", host=b""), 400),
    ("two Host same", post(b"Host: a\r\n"), 400),
    ("two Host differ", post(b"Host: b\r\n"), 400),
    ("empty Host", host(b""), 400),
    ("Host with @ / path", host(b"evil@127.0.0.1:80/x"), 400),
    ("Host list a, b", host(b"a, b"), 400),
    ("no Host (1.0)", post(b"Content-Length: 0\r\n", line=b"POST /mcp HTTP/1.0", host=b""), OK),
    ("absolute-form target", get(b"http://evil/mcp"), 400),
    ("authority-form CONNECT", b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n", 501),
    ("asterisk-form", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("target w/o slash", get(b"mcp"), 400),
    ("target with fragment", get(b"/mcp#x"), 400),
    ("target %2e%2e", get(b"/%2e%2e/mcp"), OK),
    ("target raw ..", get(b"/../mcp"), OK),
    ("target %00", get(b"/mcp%00"), OK),
    ("target bad pct %zz", get(b"/mcp%zz"), 400),
    ("target raw utf8", get("/mcé".encode()), 400),
    ("target raw 0x7f", get(b"/m\x7f"), 400),
    ("target space", get(b"/m cp"), 400),
    ("target tab", post(b"", line=b"POST\t/mcp\tHTTP/1.1"), 400),
    ("two spaces in reqline", get(b" /mcp"), 400),
    ("trailing space reqline", post(b"", line=b"POST /mcp HTTP/1.1 "), 400),
    ("method lower", post(b"", line=b"post /mcp HTTP/1.1"), 501),
    ("method junk", post(b"", line=b"P<>ST /mcp HTTP/1.1"), 400),
    ("HTTP/1.2", get(version=b"1.2"), 505),
    ("HTTP/2.0 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/0.9", b"GET /mcp\r\n", 400),
    ("HTTP/1.10", get(version=b"1.10"), 400),
    ("leading CRLF", b"\r\n" + get(), 400),
    ("leading CRLF x 10000", b"\r\n" * 10000 + get(), 400),
    ("leading garbage NUL", b"\x00" + get(), 400),
    ("TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
    ("chunk ok", chunks(b"2\r\n{}\r\n0\r\n\r\n"), OK),
    ("chunk ext", chunks(b'2;a=b;c="d"\r\n{}\r\n0\r\n\r\n'), OK),
    ("chunk ext bare LF in ext", chunks(b"2;\nxx\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk ext 60KB", chunks(b"2;" + b"x" * 60000 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk ext 15KB", chunks(b"2;" + b"x" * 15000 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk size 0x2", chunks(b"0x2\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk size +2", chunks(b"+2\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk size -2", chunks(b"-2\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk size 2_0", chunks(b"2_0\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk size leading space", chunks(b" 2\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk size trailing space", chunks(b"2 \r\n{}\r\n0\r\n\r\n"), 400),
    ("chunk size 21 hex digits", chunks(b"f" * 21 + b"\r\n{}"), 400),
    ("chunk size 20 hex digits", chunks(b"f" * 20 + b"\r\n{}"), 400),
    ("chunk size 16 hex digits", chunks(b"f" * 16 + b"\r\n{}"), 413),
    ("chunk size leading zeros 000002", chunks(b"000002\r\n{}\r\n0\r\n\r\n"), OK),
    ("chunk data wrong terminator (CVE-2025-43859)", chunks(b"2\r\n{}XX0\r\n\r\n"), 400),
    ("chunk data LF terminator", chunks(b"2\r\n{}\n0\r\n\r\n"), 400),
    ("chunk size LF line", chunks(b"2\n{}\r\n0\r\n\r\n"), 400),
    ("last chunk LF only", chunks(b"2\r\n{}\r\n0\n\n"), 400),
    ("trailers Content-Length/Host", chunks(b"2\r\n{}\r\n0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n"), OK),
    ("trailer obs-fold", chunks(b"2\r\n{}\r\n0\r\nX: a\r\n b\r\n\r\n"), 400),
    ("pipelined 2 GETs", get(b"/a") + get(b"/b"), OK),
    ("Expect 100-continue", post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"{}"), OK),
    ("Expect bogus", post(b"Expect: kittens\r\nContent-Length: 2\r\n", b"{}"), 417),
    ("Upgrade h2c", get(more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), OK),
    ("GET with body CL", get(more=b"Content-Length: 2\r\n") + b"{}", OK),
    ("POST no CL no TE", post(b""), OK),
    ("Connection: close, content-length", field(b"Connection: close, content-length"), OK),
    ("20KB one header", field(b"X: " + b"a" * 20000), 431),
    ("20KB one header, no end", post(b"X: " + b"a" * 20000)[:-2], 431),
    ("15KB header", field(b"X: " + b"a" * 15000), OK),
    ("100KB in one recv, complete head", field(b"X: " + b"a" * 100_000), 431),
    ("3000 headers (15KB)", post(b"a:b\r\n" * 3000), 431),
    ("100000 headers complete in one recv", post(b"a: b\r\n" * 100_000), 431),
    ("URI 20KB", get(b"/" + b"a" * 20000), 414),
]
