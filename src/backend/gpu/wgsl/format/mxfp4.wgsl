// MXFP4: twice the numbers of E2M1; the table is that of `backend/encoding`.
const TABLE = vec4<u32>(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

#import shared/places32
