// IQ4_XS; the table is that of `backend/encoding`.
const TABLE = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);

#import shared/places256
