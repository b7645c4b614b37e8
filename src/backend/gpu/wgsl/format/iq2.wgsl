// IQ2_XXS, IQ2_XS and IQ2_S; the table is that of `backend/encoding`.
const TABLE = vec4<u32>(0x002b1908u, 0x00000000u, 0x00d5e7f8u, 0x00000000u);

#import shared/places256
