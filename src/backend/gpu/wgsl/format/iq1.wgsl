// IQ1_S and IQ1_M: eighths; the table is that of `backend/encoding`.
const TABLE = vec4<u32>(0x000901f9u, 0x00000000u, 0x0007fff7u, 0x00000000u);

#import shared/places256
